#!lua flags=no-writes,allow-oom
-- counts: how many jobs are in each state at one instant, and the counters. Writes nothing.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[5]  dead          stream  dead letters
-- KEYS[6]  completed     stream  jobs that are done, where they are kept
-- KEYS[7]  cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[8]  stats         hash    counters
--
-- Returns  {{high, normal, low}, {high, normal, low}, delayed, dead, completed, cancelled, {counter, value, ...}}: first how many
--          entries each stream has, then how many of these run; -1 where a stream has very many consumers: XPENDING tells

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/group"
--- @include "include/has_many"
--- @include "include/is_waiting"

local streams, due, dead = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local completed, cancelled, stats = KEYS[6], KEYS[7], KEYS[8]

expect('stream', dead, completed, cancelled, unpack(streams))
expect('zset', due)
expect('hash', stats)

local function leased(stream)
  if has_many(stream) then return -1 end
  local total = 0
  for _, consumer in ipairs((leases(stream) or {})[4] or {}) do
    if not is_waiting(consumer[1]) then total = total + tonumber(consumer[2]) end
  end
  return total
end

local lengths, running = {}, {}
for number, stream in ipairs(streams) do
  lengths[number], running[number] = redis.call('XLEN', stream), leased(stream)
end
local aside = {redis.call('XLEN', dead), redis.call('XLEN', completed), redis.call('XLEN', cancelled)}
return {lengths, running, redis.call('ZCARD', due), aside[1], aside[2], aside[3], redis.call('HGETALL', stats)}
