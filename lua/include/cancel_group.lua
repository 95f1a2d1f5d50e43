-- cancel_group: schedule the cancellation of children in a group that have not ended; cancel_children does it.
-- With `closes` their parent has ended, and the group goes with the last of them. Returns whether there are any.
--- @include whole
local function cancel_group(token, closes, now_ms)
  local group = KEYS['children:'] .. token
  if (tonumber(redis.call('HGET', group, 'left') or nil) or 0) == 0 then return false end
  if closes then redis.call('HSET', group, 'closed', '1') end
  redis.call('ZADD', KEYS.cancelling, whole(now_ms), token)
  return true
end
