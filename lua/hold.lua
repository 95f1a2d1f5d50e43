#!lua flags=allow-oom
-- hold: let one waiting job not start, until it is let go. It keeps its due time, its priority and its place.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters
-- KEYS[6]  held          hash    ids of jobs that are held -> since when, ms
--
-- ARGV[1]  job           job id, or entry and place of one put in by hand, as 1732-0@low
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  HELD       it is held; that may be what it was before
--          RUNNING    it runs; nothing was written
--          DEAD       it is a dead letter; nothing was written
--          NOT_FOUND  no such job, or it ended; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/holder"
--- @include "include/is_waiting"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3], dead = KEYS[5]}
local jobs, held = KEYS[4], KEYS[6]
local job, now_ms = ARGV[1], now(ARGV[2])

local place, entry, _, id = locate(places, jobs, job)
if not place then return 'NOT_FOUND' end
if place == 'dead' then return 'DEAD' end
local stream = places[place] -- nil: delayed, or it has ended
if not stream and place ~= 'delayed' then return 'NOT_FOUND' end
if stream then
  if not entry_at(stream, entry) then return 'NOT_FOUND' end
  local consumer = holder(stream, entry)
  if not is_waiting(consumer) then return 'RUNNING' end
end
expect('hash', held)
if not redis.call('HGET', held, id) then redis.call('HSET', held, id, whole(now_ms)) end
return 'HELD'
