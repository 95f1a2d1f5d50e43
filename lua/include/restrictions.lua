-- restrictions: what may not start now, as somebody said: nil where all may. Else a table: `all` is true while the queue is
-- paused; `job(id, fields)` says whether that one may not, and is nil where no name is paused and no job held; `limited` is
-- true while job names have limits. Needs field, expect, may_not_start beside it.
local function restrictions(paused, paused_names, held, limits)
  if redis.call('EXISTS', paused, paused_names, held, limits) == 0 then return nil end
  expect('hash', paused_names, held, limits)
  local restricted = {all = redis.call('EXISTS', paused) == 1, limited = redis.call('EXISTS', limits) == 1}
  if redis.call('EXISTS', paused_names, held) > 0 then
    restricted.job = function(id, fields) return may_not_start(paused_names, held, id, fields) end
  end
  return restricted
end
