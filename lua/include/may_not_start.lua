-- may_not_start: whether a job's name is paused, or the job is held.
--- @include field
local function may_not_start(id, fields)
  return redis.call('HGET', KEYS['paused:names'], field(fields, 'name') or '') or redis.call('HGET', KEYS.held, id)
end
