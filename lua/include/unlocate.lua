-- unlocate: forget where the job of an entry was that somebody removed by hand while it was leased. Its id is known only
-- if it is the entry's, as that of a job put in by hand is; any other job's locator is found out by the next push.
local function unlocate(jobs, stream, entry)
  local located, here = redis.call('HGET', jobs, entry), string.match(stream, '[^:]+$') .. ' ' .. entry .. ' '
  if located and string.sub(located .. ' ', 1, #here) == here then redis.call('HDEL', jobs, entry) end
end
