-- recent_ends: whether pushes arrive too late after they were sent, or the server's clock was set since. Then, by
-- number, which of them have ended since they were sent; nil: none. For a repetition, first sent at `since_ms`, it
-- also looks at the last minute, and at the time of a clock that was set back. The further arguments are the marks
-- of the pushes.
--- @include checked
local function recent_ends(sent_ms, now_ms, since_ms, ...)
  --- @include times
  local oldest_ms = since_ms and repetition_ms or first_try_ms
  if not sent_ms or sent_ms < now_ms - oldest_ms or sent_ms > now_ms + ahead_ms then return true end
  local ended, first_ms, last_ms = nil, since_ms and now_ms - remembered_ms
    or sent_ms - ahead_ms, now_ms + ahead_ms
  while first_ms do
    for n = math.floor(first_ms / slot_ms), math.floor(last_ms / slot_ms) do
      local set = KEYS['finished:'] .. n
      local found = checked('set', set, redis.pcall('SMISMEMBER', set, ...))
      for i = 1, #found do
        if found[i] == 1 then
          ended = ended or {}
          ended[i] = true
        end
      end
    end
    -- Then look again, at the time of a clock that was set back.
    first_ms, last_ms, since_ms = since_ms and since_ms - ahead_ms, since_ms and since_ms + remembered_ms, nil
  end
  return false, ended
end
