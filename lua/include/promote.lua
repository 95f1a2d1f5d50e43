-- promote: make due jobs ready, up to 100, and no more after the first MB, because Redis serves nothing else meanwhile.
-- Returns the µs until the next delayed job is due; -1: there is none.
--- @include due_in parted unpacked enqueue whole
local function promote(now_ms, exact_ms)
  -- A delayed job is a JSON list of strings: priority, then names and values. cjson keeps strings, and only those, to
  -- the byte.
  local bytes = 0
  local function promote_one(member)
    local line, job = parted(member)
    local packed = redis.call('HGET', KEYS.delayed, job)
    if packed then -- add it, then remove it: if Redis refuses the first step, the job is still delayed
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

  local next_due = due_in(KEYS.due, exact_ms)
  if next_due < 0 or next_due >= 1000 then return next_due end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS.due, '-inf', now_ms, 'LIMIT', 0, 100)) do
    if bytes >= 1024 * 1024 then break end
    -- Try a job that can't be promoted again in a minute, so that it does not block other jobs.
    if not promote_one(member) then redis.call('ZADD', KEYS.due, whole(now_ms + 60000), member) end
  end
  return due_in(KEYS.due, exact_ms)
end
