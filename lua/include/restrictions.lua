-- restrictions: what may not start now, as somebody said: nil where all may. Else a table: `all` is true while the queue is
-- paused, and `job(id, fields)` says whether that one may not. Needs field, expect, may_not_start beside it.
local function restrictions(paused, paused_names, held)
  if redis.call('EXISTS', paused, paused_names, held) == 0 then return nil end
  expect('hash', paused_names, held)
  return {all = redis.call('EXISTS', paused) == 1, job = function(id, fields)
    return may_not_start(paused_names, held, id, fields)
  end}
end
