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
-- Returns  {{ready high, normal, low}, running, delayed, dead, completed, cancelled, {counter, value, ...}}

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/is_waiting"

local streams, due, dead = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local completed, cancelled, stats = KEYS[6], KEYS[7], KEYS[8]

expect('stream', dead, completed, cancelled, unpack(streams))
expect('zset', due)
expect('hash', stats)
local ready, running = {}, 0
for number, stream in ipairs(streams) do
  local leased = 0
  local pending = leases(stream)
  if pending and pending[1] > 0 then
    for _, consumer in ipairs(pending[4]) do
      if not is_waiting(consumer[1]) then leased = leased + tonumber(consumer[2]) end
    end
  end
  ready[number] = redis.call('XLEN', stream) - leased
  running = running + leased
end
local aside = {redis.call('XLEN', dead), redis.call('XLEN', completed), redis.call('XLEN', cancelled)}
return {ready, running, redis.call('ZCARD', due), aside[1], aside[2], aside[3], redis.call('HGETALL', stats)}
