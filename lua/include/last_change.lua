-- last_change: the number of the last change of the schedules; 0 for none yet, or where something else was put in its place.
local function last_change(layout)
  local noted = redis.call('HGET', layout, 'schedules') or ''
  return string.match(noted, '^%d+$') and #noted < 16 and tonumber(noted) or 0
end
