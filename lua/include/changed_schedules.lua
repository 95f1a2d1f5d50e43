-- changed_schedules: note that the schedules were changed, if they were, and tell of it. Returns how often they were in all,
-- which is how a scheduler knows that it has to look. Needs whole, tell, times_changed beside it.
local function changed_schedules(layout, control, has_changed)
  local changes = times_changed(layout)
  if not has_changed then return changes end
  redis.call('HSET', layout, 'schedules', whole(changes + 1))
  tell(control, 'schedules ' .. whole(changes + 1))
  return changes + 1
end
