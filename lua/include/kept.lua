-- kept: where jobs stay that have ended, of those states that the queue keeps: see retention. A key that was made something
-- else by hand ends the script, before anything is written. Needs expect beside it.
local function kept(retention, completed, cancelled)
  local told = redis.pcall('HMGET', retention, 'completed', 'cancelled')
  if told.err then
    expect('hash', retention)
    return error(told)
  end
  local streams = {completed = told[1] and told[1] ~= '' and completed, cancelled = told[2] and told[2] ~= '' and cancelled}
  if streams.completed or streams.cancelled then expect('stream', completed, cancelled) end
  return streams
end
