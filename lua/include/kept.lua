-- kept: the streams of ended jobs that the queue keeps, by state. A key of another type ends the script before it writes.
--- @include expect
local function kept()
  local told = redis.pcall('HMGET', KEYS.retention, 'completed', 'cancelled')
  if told.err then
    expect('hash', KEYS.retention)
    return error(told)
  end
  local completed, cancelled = told[1] and told[1] ~= '' and KEYS.completed, told[2] and told[2] ~= '' and KEYS.cancelled
  if completed or cancelled then expect('stream', KEYS.completed, KEYS.cancelled) end
  return {completed = completed, cancelled = cancelled}
end
