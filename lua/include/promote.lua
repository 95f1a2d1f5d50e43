-- promote: make due jobs ready, up to 100, and no more after the first MB, as Redis serves nothing else meanwhile.
--
-- Returns in how many µs the next delayed job is due; -1: there is none
--- @include parted unpacked enqueue whole
local function promote(now_ms, exact_ms)
  local function next_due()
    local first = redis.call('ZRANGE', KEYS.due, 0, 0, 'WITHSCORES')[2]
    if not first then return -1 end
    return math.min(math.max(0, (tonumber(first) - exact_ms) * 1000), 1e15) -- a score may be `inf`
  end

  -- A delayed job is a JSON list of strings: priority, then names and values. cjson keeps strings, and only those, to
  -- the byte.
  local bytes = 0
  local function promote_one(member)
    local line, job = parted(member)
    local packed = redis.call('HGET', KEYS.delayed, job)
    if packed then -- added before it is removed: if Redis refuses the first, it has not done the second
      local fields, priority = unpacked(packed)
      if not fields or not pcall(enqueue, priority, job, fields) then return false end
      redis.call('HDEL', KEYS.delayed, job)
      bytes = bytes + #packed
    elseif redis.call('HGET', KEYS.jobs, job) == (line == '' and 'delayed' or 'delayed ' .. line) then
      redis.call('HDEL', KEYS.jobs, job)
    end
    redis.call('ZREM', KEYS.due, member)
    return true
  end

  local due_in = next_due()
  if due_in < 0 or due_in >= 1000 then return due_in end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS.due, '-inf', now_ms, 'LIMIT', 0, 100)) do
    if bytes >= 1024 * 1024 then break end
    -- What can't be promoted is tried again in a minute, and does not block other jobs.
    if not promote_one(member) then redis.call('ZADD', KEYS.due, whole(now_ms + 60000), member) end
  end
  return next_due()
end
