#!lua flags=no-writes,allow-oom
-- counts: count the jobs in each state at one instant, and return the counters. Writes nothing.
-- Returns  {{high, normal, low}, {high, normal, low}, delayed, dead, completed, cancelled, {counter, value, ...},
--          inbox, suspended}: first the entries of each stream, then how many of these run; -1 if the stream has
--          too many consumers for a script: ask XPENDING

--- @include expect streams leased
expect('stream', KEYS.inbox, KEYS.dead, KEYS.completed, KEYS.cancelled, unpack(streams))
expect('zset', KEYS.due, KEYS.suspended)
expect('hash', KEYS.stats)

local lengths, running = {}, {}
for number, stream in ipairs(streams) do
  lengths[number], running[number] = redis.call('XLEN', stream), leased(stream)
end
local aside = {redis.call('XLEN', KEYS.dead), redis.call('XLEN', KEYS.completed),
  redis.call('XLEN', KEYS.cancelled)}
return {lengths, running, redis.call('ZCARD', KEYS.due), aside[1], aside[2], aside[3],
  redis.call('HGETALL', KEYS.stats),
  redis.call('XLEN', KEYS.inbox), redis.call('ZCARD', KEYS.suspended)}
