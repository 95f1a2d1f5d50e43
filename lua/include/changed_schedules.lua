-- changed_schedules: note that these schedules were changed, and publish it. Each change has a number above all before it, so a
-- scheduler reads only what has a higher number than the last change it has read. A number is at least the time in ms: after
-- the server has lost its data, new numbers are still above those a scheduler has read. Returns the number of the last change.
-- Needs whole, tell, last_change beside it.
local function changed_schedules(schedules, layout, control, now_ms, names)
  local number = last_change(layout)
  if #names == 0 then return number end
  for _, name in ipairs(names) do
    number = math.max(number + 1, now_ms)
    redis.call('ZADD', schedules, whole(number), name)
  end
  redis.call('HSET', layout, 'schedules', whole(number))
  tell(control, 'schedules ' .. whole(number))
  return number
end
