-- give_up: let jobs that run no more give up their shares of limits, and let the next in line have a turn. `places` are those
-- of the jobs, as in the locator; where `refund` is true their starts do not count either. `keys` has limits, shares,
-- holders, rate, turns, lines. Needs whole, limit_of beside it.
local function give_up(keys, places, now_ms, refund)
  if #places == 0 or redis.call('EXISTS', keys.shares) == 0 then return end
  for i, bucket in ipairs(redis.call('HMGET', keys.shares, unpack(places))) do
    if bucket then
      redis.call('HDEL', keys.shares, places[i])
      redis.pcall('ZREM', keys.holders .. bucket, places[i])
      local limit = refund and limit_of(keys.limits, string.match(bucket, '^%S*'))
      local noted = limit and limit.every_us and redis.pcall('GET', keys.rate .. bucket)
      if type(noted) == 'string' and tonumber(noted) then
        redis.call('SET', keys.rate .. bucket, whole(tonumber(noted) - limit.every_us), 'KEEPTTL')
      end
      if redis.call('ZSCORE', keys.lines, bucket) then redis.call('ZADD', keys.turns, 'LT', whole(now_ms), bucket) end
    end
  end
end
