-- last_change: the number of the last change of the schedules; 0 if there is none yet, or if it is no number.
local function last_change()
  local noted = redis.call('HGET', KEYS.layout, 'schedules') or ''
  return string.match(noted, '^%d+$') and #noted < 16 and tonumber(noted) or 0
end
