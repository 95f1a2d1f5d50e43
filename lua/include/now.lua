-- now: the server's clock in whole ms, and to the microsecond; or a test's `override` if not empty. The time is
-- computed from numbers, because the microseconds of TIME are not zero-padded.
local function now(override)
  if override ~= '' then return tonumber(override), tonumber(override) end
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + time[2] / 1000
  return math.floor(ms), ms
end
