-- is_taken: whether a job that has not ended has an id. If not, its leftover member of `due`, if its fields are gone.
-- Then how many bytes were read. A locator that `is_trusted` is taken at its word; so is each if `dead` is no stream.
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
