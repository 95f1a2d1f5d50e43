-- end_child: if a job is a child, note in its group how it has ended. `word` is as for conclude. For a dead
-- letter, `text` is its error type, its reason with `_` for spaces, and its error. The last child of a group wakes
-- the parent; if the parent has ended, the group is deleted.
--- @include field locate unpacked wake member whole
local function end_child(fields, word, text, now_ms)
  local token, index = string.match(field(fields, 'child_of') or '', '^(%S+) (%d+)$')
  if not token then return end
  local group = KEYS['children:'] .. token
  local known = redis.pcall('HMGET', group, 'parent', 'key', 'left', 'closed', index)
  if known.err or not known[1] or known[5] then return end
  local parent, key, left = known[1], known[2], (tonumber(known[3] or nil) or 1) - 1
  if left == 0 and known[4] then
    redis.call('DEL', group)
    redis.call('ZREM', KEYS.cancelling, token)
    return
  end
  redis.call('HSET', group, index, (text or '') == '' and word or word .. ' ' .. text, 'left', whole(left))
  if left > 0 then return end
  local _, line, mark = locate(parent)
  if mark ~= 'suspended' or redis.pcall('HGET', KEYS['steps:'] .. parent, 'children ' .. key) ~= token then
    return
  end
  local packed = redis.call('HGET', KEYS.delayed, parent)
  local waits = field(unpacked(packed or '') or {}, 'waits') or ''
  if string.match(waits, '^%d+ children (%S+)') == key then
    wake(parent, member(line, parent), packed, 'children', token, now_ms)
  end
end
