-- changed_schedules: note that these schedules have changed, and publish it. Each change gets a higher number than
-- all before, and at least the time in ms, so numbers also grow after a loss of data. Returns the last number.
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
