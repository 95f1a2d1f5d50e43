-- group_in: list a new dead letter in the group of its kind. It never fails: groups are only an index.
--- @include padded
local function group_in(kind, entry, now_ms)
  local at = string.format('%.0f', now_ms)
  redis.pcall('ZADD', KEYS['group:'] .. kind, at, padded(entry))
  redis.pcall('ZADD', KEYS.groups, 'GT', at, kind)
end
