-- take_share: count a job under a bucket, as started now.
--- @include whole arrival
local function take_share(bucket, limit, place, now_ms, now_us)
  redis.call('HSET', KEYS.shares, place, bucket)
  redis.pcall('ZADD', KEYS['holders:'] .. bucket, whole(now_ms), place)
  if not limit.every_us then return end
  local next_us = arrival(bucket, limit, now_us) + limit.every_us
  redis.call('SET', KEYS['rate:'] .. bucket, whole(next_us), 'PX', whole(math.ceil((next_us - now_us) / 1000)))
end
