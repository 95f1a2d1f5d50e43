-- changed_schedules: note that these schedules have changed, and publish it. Each change gets a higher number than all
-- before, so a scheduler reads only changes above the last one it knows. A number is at least the time in ms: also
-- after the server has lost its data, new numbers are higher than any that a scheduler has read. Returns the number of
-- the last change.
--- @include last_change whole tell
local function changed_schedules(now_ms, names)
  local number = last_change()
  if #names == 0 then return number end
  for _, name in ipairs(names) do
    number = math.max(number + 1, now_ms)
    redis.call('ZADD', KEYS.schedules, whole(number), name)
  end
  redis.call('HSET', KEYS.layout, 'schedules', whole(number))
  tell('schedules ' .. whole(number))
  return number
end
