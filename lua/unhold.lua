#!lua flags=allow-oom
-- unhold: let go of a job that is held. If it was parked for that it is ready at once, in its place.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters
-- KEYS[6]  paused:names  hash    job names that are paused -> since when, ms
-- KEYS[7]  held          hash    ids of jobs that are held -> since when, ms
-- KEYS[8]  control       channel notifications
--
-- ARGV[1]  job           job id, or entry and place of one put in by hand, as 1732-0@low
--
-- Returns  OK         it was held, and is not any more; or the note of it was taken away by hand, and it was parked still
--          NOT_FOUND  it was not held; nothing was written

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/holder"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/may_not_start"
--- @include "include/hand_back"
--- @include "include/tell"

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3], dead = KEYS[5]}
local jobs, names, held, control = KEYS[4], KEYS[6], KEYS[7], KEYS[8]
local job = ARGV[1]

expect('stream', KEYS[1], KEYS[2], KEYS[3])
expect('hash', names, held)
local place, entry, _, id = locate(places, jobs, job)
-- Of two that were put in by hand with one entry id, the one that is left goes by that when the other has ended.
local let_go = redis.call('HDEL', held, job, id or job) > 0
local stream = place and places[place]
local fields = stream and entry_at(stream, entry)
local consumer, deliveries = nil, nil
if fields then consumer, deliveries = holder(stream, entry) end
if consumer == 'parked' and not may_not_start(names, held, id, fields) then
  hand_back(stream, deliveries, {entry})
  tell(control, 'released 1')
  let_go = true
end
return let_go and 'OK' or 'NOT_FOUND'
