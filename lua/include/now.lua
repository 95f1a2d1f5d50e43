-- now: the server's clock in ms, or the test's own when `override` is not empty.
-- Computed, never concatenated: TIME's microseconds are not zero-padded.
local function now(override)
  if override ~= '' then return tonumber(override) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
