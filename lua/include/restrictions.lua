-- restrictions: which jobs may not start now; nil if all may. `all`: the queue is paused. `job(id, fields)`:
-- whether this job may not; nil if no name is paused and no job is held. `limited`: some job names have limits.
--- @include expect may_not_start
local function restrictions()
  local paused_names = KEYS['paused:names']
  if redis.call('EXISTS', KEYS.paused, paused_names, KEYS.held, KEYS.limits) == 0 then return nil end
  expect('hash', paused_names, KEYS.held, KEYS.limits)
  local restricted =
    {all = redis.call('EXISTS', KEYS.paused) == 1, limited = redis.call('EXISTS', KEYS.limits) == 1}
  if redis.call('EXISTS', paused_names, KEYS.held) == 0 then return restricted end
  restricted.job = function(id, fields) return may_not_start(id, fields) end
  return restricted
end
