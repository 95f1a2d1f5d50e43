-- is_taken: whether a job that has not ended has this id. Then, if not, the leftover member of `due` of a delayed
-- job whose fields are gone. Then how many bytes were read. With `is_trusted` the locator counts unread; so it
-- does if `dead` is no stream.
--- @include stored member bytes_of
local function is_taken(job, is_trusted)
  local located = redis.call('HGET', KEYS.jobs, job)
  local place, line = string.match(located or '', '^(%S+) ?(%S*)')
  if not place or place == 'completed' or place == 'cancelled' then return false, nil, 0 end
  if is_trusted then return true, nil, 0 end
  if place == 'dead' and redis.call('TYPE', KEYS.dead).ok ~= 'stream' then
    return redis.call('EXISTS', KEYS.dead) == 1, nil, 0
  end
  local fields = stored(job, located)
  return fields ~= nil, not fields and place == 'delayed' and member(line, job) or nil, bytes_of(fields or {})
end
