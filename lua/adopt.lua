#!lua flags=allow-oom
-- adopt: give jobs that were put in by hand, without an id, the id that they go by from now on, and a locator.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
--
-- ARGV[1..] for each job: stream 1..3, entry
--
-- Returns  for each job its id: the entry id, as 1732-0; where another job has that, with the stream, as 1732-0@low

--- @include "include/expect"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"

local streams, jobs = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4]
local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local first_job = 1

expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs)

local ids = {}
for at = first_job, #ARGV, 2 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local fields, id, mark = entry_at(stream, entry), entry, nil
  if fields then
    local place = string.match(stream, '[^:]+$')
    id, mark = identify(places, jobs, place, entry, fields)
    if not mark then redis.call('HSET', jobs, id, place .. ' ' .. entry) end
  end
  ids[#ids + 1] = id
end
return ids
