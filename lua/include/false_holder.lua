-- false_holder: the place of who has been counted under a bucket for the longest, if it has no share of it: somebody has taken
-- away the note of that share by hand, and left this one. Else nil. `keys` has shares, holders.
local function false_holder(keys, bucket)
  local oldest = redis.pcall('ZRANGE', keys.holders .. bucket, 0, 0)[1]
  return oldest and redis.call('HGET', keys.shares, oldest) ~= bucket and oldest or nil
end
