-- tell: publish a notification. It is only a hint, so it never fails: the state has changed already.
local function tell(text)
  redis.pcall('PUBLISH', KEYS.control, text)
end
