-- false_holder: the oldest place counted under a bucket if it has no share of that bucket, else nil. Its share was
-- deleted outside redisjobs.
local function false_holder(bucket)
  local oldest = redis.pcall('ZRANGE', KEYS['holders:'] .. bucket, 0, 0)[1]
  return oldest and redis.call('HGET', KEYS.shares, oldest) ~= bucket and oldest or nil
end
