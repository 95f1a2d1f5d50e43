-- kept: the streams in which the queue keeps ended jobs, by state. A key of another type ends the script before it
-- writes.
--- @include checked expect
local function kept()
  local retention = checked('hash', KEYS.retention, redis.pcall('HMGET', KEYS.retention, 'completed', 'cancelled'))
  local completed = (retention[1] or '') ~= '' and KEYS.completed
  local cancelled = (retention[2] or '') ~= '' and KEYS.cancelled
  if completed or cancelled then expect('stream', KEYS.completed, KEYS.cancelled) end
  return {completed = completed, cancelled = cancelled}
end
