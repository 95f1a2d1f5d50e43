-- unlocate: drop the locator of an entry that was deleted while it was leased. Its job id is known only if it is the
-- entry's; the next push of any other id finds out.
local function unlocate(stream, entry)
  local located, here = redis.call('HGET', KEYS.jobs, entry), string.match(stream, '[^:]+$') .. ' ' .. entry .. ' '
  if located and string.sub(located .. ' ', 1, #here) == here then redis.call('HDEL', KEYS.jobs, entry) end
end
