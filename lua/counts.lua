#!lua flags=no-writes,allow-oom
-- counts: count the jobs in each state at one instant, and return the counters. Writes nothing.
-- Returns  {{high, normal, low}, {high, normal, low}, delayed, dead, completed, cancelled, {counter, value, ...}, inbox}: first the
--          entries of each stream, then how many of these run; -1 if the stream has too many consumers for a script: ask XPENDING

--- @include expect streams has_many leases is_waiting
expect('stream', KEYS.inbox, KEYS.dead, KEYS.completed, KEYS.cancelled, unpack(streams))
expect('zset', KEYS.due)
expect('hash', KEYS.stats)

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
local aside = {redis.call('XLEN', KEYS.dead), redis.call('XLEN', KEYS.completed), redis.call('XLEN', KEYS.cancelled)}
return {lengths, running, redis.call('ZCARD', KEYS.due), aside[1], aside[2], aside[3], redis.call('HGETALL', KEYS.stats),
  redis.call('XLEN', KEYS.inbox)}
