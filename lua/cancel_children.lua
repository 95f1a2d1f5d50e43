#!lua flags=allow-oom
-- cancel_children: cancel children whose parent was cancelled, or became a dead letter with `cancels`. One call
-- cancels up to 100 children of one group, or about 1 MB of them.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- Returns  1 if there are more, else 0

--- @include now expect slot ends cancel_one end_child whole tell_others
local now_ms = now(ARGV[1])
expect('zset', KEYS.cancelling)
expect('set', slot(now_ms))
expect('hash', KEYS.held)

local token = redis.call('ZRANGE', KEYS.cancelling, 0, 0)[1]
if not token then return 0 end
local group, ending, bytes = KEYS['children:'] .. token, {ends = ends()}, 0
local known = redis.call('HMGET', group, 'total', 'cancelled to')
local total, index = tonumber(known[1] or nil) or 0, tonumber(known[2] or nil) or 0
local until_index = math.min(total, index + 100)
while index < until_index and bytes < 1048576 do
  local said = redis.call('HMGET', group, index, 'id ' .. index)
  if not said[1] then
    local _, read, is_there = cancel_one(ending, said[2] or token .. '-' .. index, now_ms)
    bytes = bytes + read
    -- A child that was never added ends here.
    if not is_there then end_child({'child_of', token .. ' ' .. index}, 'cancelled', nil, now_ms) end
  end
  index = index + 1
end
tell_others(ending.ends)
if index < total and redis.call('HGET', group, 'total') then -- the group goes with the last child
  redis.call('HSET', group, 'cancelled to', whole(index))
else
  redis.call('ZREM', KEYS.cancelling, token)
  redis.call('HDEL', group, 'cancelled to') -- its parent may be requeued, and cancelled again
end
return #redis.call('ZRANGE', KEYS.cancelling, 0, 0)
