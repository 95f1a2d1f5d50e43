-- take_share: note that a job runs that is counted under a bucket, and that it has started now. `keys` has shares, holders,
-- rate. Needs whole, arrival beside it.
local function take_share(keys, bucket, limit, place, now_ms, now_us)
  redis.call('HSET', keys.shares, place, bucket)
  redis.pcall('ZADD', keys.holders .. bucket, whole(now_ms), place)
  if not limit.every_us then return end
  local next_us = arrival(keys.rate, bucket, limit, now_us) + limit.every_us
  redis.call('SET', keys.rate .. bucket, whole(next_us), 'PX', whole(math.ceil((next_us - now_us) / 1000)))
end
