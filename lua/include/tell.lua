-- tell: publish a notification. It is a hint only, and a permission that is missing is not worth a job: the state is
-- changed already.
local function tell(control, text)
  redis.pcall('PUBLISH', control, text)
end
