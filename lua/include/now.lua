-- now: the server's clock in whole ms, and to the microsecond; or the test's own when `override` is not empty.
-- Computed, never concatenated: TIME's microseconds are not zero-padded.
local function now(override)
  if override ~= '' then return tonumber(override), tonumber(override) end
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + time[2] / 1000
  return math.floor(ms), ms
end
