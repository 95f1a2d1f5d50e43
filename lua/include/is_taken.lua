-- is_taken: whether a job that has not ended has this id. If not, also the leftover member of `due` of a delayed
-- job whose fields are gone. Then the number of bytes read. With `is_trusted`, or if `dead` is no stream, a
-- locator counts without reading the job.
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
