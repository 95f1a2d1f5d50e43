-- may_not_start: whether a job's name is paused, or the job is held. Needs field beside it.
local function may_not_start(paused_names, held, id, fields)
  return redis.call('HGET', paused_names, field(fields, 'name') or '') or redis.call('HGET', held, id)
end
