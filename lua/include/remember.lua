-- remember: remember the pushes of jobs that ended, so that a repeated or late push adds nothing. The slot that no push
-- looks at any more goes here, in the background: Redis would free an expired one in one go, 284,000 ids in 100 ms, unless
-- `lazyfree-lazy-expire` is on. If the permission for UNLINK is missing, it expires.
--- @include slot mark
local function remember(pushes, now_ms)
  --- @include times
  if #pushes == 0 then return end
  local marks, key = {}, slot(now_ms)
  for i, push in ipairs(pushes) do marks[i] = mark(push) end
  redis.call('SADD', key, unpack(marks))
  redis.call('PEXPIRE', key, kept_ms)
  redis.pcall('UNLINK', slot(now_ms - kept_ms))
end
