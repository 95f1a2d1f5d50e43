-- wake: make a suspended job ready, and save how its wait ended: `how` (`slept`, `timeout`, `signal`) and a value,
-- or nil. `packed` is the job in `delayed`, `member` its member of `suspended`. Returns whether it could be made
-- ready; if not, nothing was written.
--- @include unpacked field with enqueue whole count
local function wake(job, member, packed, how, value, now_ms)
  local fields, priority = unpacked(packed)
  if not fields then return false end
  local number, key = string.match(field(fields, 'waits') or '', '^(%d+) %S+ (%S+)')
  if not pcall(enqueue, priority, job, with(fields, {'waits', ''})) then return false end
  if key and not redis.call('HGET', KEYS['steps:'] .. job, key) then
    redis.call('HSET', KEYS['steps:'] .. job, key, number .. ' ' .. whole(now_ms) .. ' ' .. how
      .. (value and ' ' .. value or ''))
  end
  redis.call('HDEL', KEYS.delayed, job)
  redis.call('ZREM', KEYS.suspended, member)
  count('woken', 1)
  return true
end
