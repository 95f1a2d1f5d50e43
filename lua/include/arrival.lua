-- arrival: the theoretical arrival time of the next job of a bucket, µs: what the generic cell rate algorithm keeps. Never
-- before now, and never later than a burst allows: where it is, as the clock was set back, or the limit changed, it is
-- corrected. Needs whole beside it.
local function arrival(rate, bucket, limit, now_us)
  local noted = redis.pcall('GET', rate .. bucket)
  local next_us, latest_us = type(noted) == 'string' and tonumber(noted) or 0, now_us + limit.ahead_us + limit.every_us
  if next_us > latest_us then
    next_us = latest_us
    redis.call('SET', rate .. bucket, whole(next_us), 'PX', whole(math.ceil((next_us - now_us) / 1000)))
  end
  return math.max(now_us, next_us)
end
