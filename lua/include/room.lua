-- room: the number of jobs of a bucket that may start now. If the rate allows none, also when one may start, in
-- µs. If too many run, only 0, until a job ends. A `holders:` key of another type allows none.
--- @include arrival
local function room(bucket, limit, now_us)
  local free = math.huge
  if limit.most then
    local running = redis.pcall('ZCARD', KEYS['holders:'] .. bucket)
    free = type(running) == 'number' and limit.most - running or 0
    if free <= 0 then return 0 end
  end
  if not limit.every_us then return free end
  local from_us = arrival(bucket, limit, now_us) - limit.ahead_us
  if from_us > now_us then return 0, from_us end
  return math.min(free, math.floor((now_us - from_us) / limit.every_us) + 1)
end
