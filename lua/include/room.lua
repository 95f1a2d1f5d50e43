-- room: how many jobs of a bucket may start now. If none may as the rate does not allow it, also from when on one may, µs; if
-- it is as too many run, nothing: giving up a share changes that. `keys` has holders, rate. A key of holders that somebody
-- made something else has no room. Needs arrival beside it.
local function room(keys, bucket, limit, now_us)
  local free = math.huge
  if limit.most then
    local running = redis.pcall('ZCARD', keys.holders .. bucket)
    free = type(running) == 'number' and limit.most - running or 0
    if free <= 0 then return 0 end
  end
  if not limit.every_us then return free end
  local from_us = arrival(keys.rate, bucket, limit, now_us) - limit.ahead_us
  if from_us > now_us then return 0, from_us end
  return math.min(free, math.floor((now_us - from_us) / limit.every_us) + 1)
end
