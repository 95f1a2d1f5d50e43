-- promote: make delayed jobs ready that are due: up to 100, and no further one once those have a MB, as others wait meanwhile.
-- `keys` has streams, jobs, due, delayed, large. Needs whole, parted, unpacked, enqueue beside it.
--
-- Returns in how many µs the next delayed job is due; -1: there is none
local function promote(keys, now_ms, exact_ms)
  local function next_due()
    local first = redis.call('ZRANGE', keys.due, 0, 0, 'WITHSCORES')[2]
    if not first then return -1 end
    return math.min(math.max(0, (tonumber(first) - exact_ms) * 1000), 1e15) -- `inf`, by hand
  end

  -- A delayed job is a JSON list of strings: its priority, then its entry's names and values. Strings only: that is
  -- what cjson keeps to the byte.
  local numbers, bytes = {high = 1, normal = 2, low = 3}, 0
  local function promote_one(member)
    local line, job = parted(member)
    local packed = redis.call('HGET', keys.delayed, job)
    if packed then -- added before it is taken away: should the server refuse the one, it has not done the other
      local fields, priority = unpacked(packed)
      if not fields or not enqueue(keys, numbers[priority], job, fields) then return false end
      redis.call('HDEL', keys.delayed, job)
      bytes = bytes + #packed
    elseif redis.call('HGET', keys.jobs, job) == (line == '' and 'delayed' or 'delayed ' .. line) then
      redis.call('HDEL', keys.jobs, job)
    end
    redis.call('ZREM', keys.due, member)
    return true
  end

  local due_in = next_due()
  if due_in < 0 or due_in >= 1000 then return due_in end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.due, '-inf', now_ms, 'LIMIT', 0, 100)) do
    if bytes >= 1024 * 1024 then break end
    -- What can't be promoted, by somebody's hand, is tried again in a minute, and is in nobody's way meanwhile.
    if not promote_one(member) then redis.call('ZADD', keys.due, whole(now_ms + 60000), member) end
  end
  return next_due()
end
