-- arrival: when the next job of a bucket would start at an even rate, in µs. This is the "theoretical arrival
-- time" of the generic cell rate algorithm. A note later than a burst allows is corrected: the clock was set back,
-- or the limit changed.
--- @include whole
local function arrival(bucket, limit, now_us)
  local noted = redis.pcall('GET', KEYS['rate:'] .. bucket)
  local next_us, latest_us = type(noted) == 'string' and tonumber(noted) or 0,
    now_us + limit.ahead_us + limit.every_us
  if next_us > latest_us then
    next_us = latest_us
    redis.call('SET', KEYS['rate:'] .. bucket, whole(next_us), 'PX', whole(math.ceil((next_us - now_us) / 1000)))
  end
  return math.max(now_us, next_us)
end
