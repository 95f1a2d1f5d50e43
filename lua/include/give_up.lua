-- give_up: free the shares of jobs that no longer run, and give the next in line a turn. `places` are as in the
-- locator. With `refund` their starts do not count for the rate either. A job that continued after a wait has
-- spent none of the rate, so it gets nothing back.
--- @include limit_of whole entry_at goes_on
local function give_up(places, now_ms, refund)
  if #places == 0 or redis.call('EXISTS', KEYS.shares) == 0 then return end

  local function has_spent(place)
    local priority, entry = string.match(place, '^(%S+) (.+)$')
    -- Only a running job has a share, so these streams are enough.
    local ready = {high = KEYS['ready:high'], normal = KEYS['ready:normal'], low = KEYS['ready:low']}
    local fields = entry_at(ready[priority], entry)
    return not (fields and goes_on(fields))
  end

  for i, bucket in ipairs(redis.call('HMGET', KEYS.shares, unpack(places))) do
    if bucket then
      redis.call('HDEL', KEYS.shares, places[i])
      redis.pcall('ZREM', KEYS['holders:'] .. bucket, places[i])
      local limit = refund and limit_of(string.match(bucket, '^%S*'))
      local noted = limit and limit.every_us and has_spent(places[i])
        and redis.pcall('GET', KEYS['rate:'] .. bucket)
      if type(noted) == 'string' and tonumber(noted) then
        redis.call('SET', KEYS['rate:'] .. bucket, whole(tonumber(noted) - limit.every_us), 'KEEPTTL')
      end
      if redis.call('ZSCORE', KEYS.lines, bucket) then
        redis.call('ZADD', KEYS.turns, 'LT', whole(now_ms), bucket)
      end
    end
  end
end
