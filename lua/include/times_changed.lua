-- times_changed: how often the schedules were changed in all; 0 where somebody has put something else in its place.
local function times_changed(layout)
  local noted = redis.call('HGET', layout, 'schedules') or ''
  return string.match(noted, '^%d+$') and #noted < 16 and tonumber(noted) or 0
end
