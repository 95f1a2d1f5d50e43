-- remember: keep, in the slot of now, the pushes of jobs that ended: one repeated after a lost reply, or late, adds
-- nothing then. Gone when no push can come any more; push looks in the slots of the last minute at most.
--
-- The slot in which nobody looks any more goes here, in the background. Were it left to expire, a server would free it in one
-- go: 284,000 ids hold it up for 100 ms, unless it has `lazyfree-lazy-expire yes`. Where the permission is missing, it does.
-- Needs mark beside it.
local function remember(slot_key, pushes)
  if #pushes == 0 then return end
  local marks = {}
  for i, push in ipairs(pushes) do marks[i] = mark(push) end
  redis.call('SADD', slot_key, unpack(marks))
  redis.call('PEXPIRE', slot_key, 65000)
  local prefix, number = string.match(slot_key, '^(.*:)(%d+)$')
  redis.pcall('UNLINK', prefix .. string.format('%.0f', tonumber(number) - 13))
end
