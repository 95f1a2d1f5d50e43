-- promote: make due jobs ready: up to 100 delayed and 100 suspended jobs, and no more after the first MB, because
-- Redis serves nothing else meanwhile. Without `suspends` no job is suspended. Returns the µs until the next job
-- is due; -1: there is none.
--- @include due_in parted unpacked enqueue whole wake field
local function promote(now_ms, exact_ms, suspends)
  -- A delayed job is a JSON list of strings: priority, then names and values. cjson keeps strings, and only
  -- strings, to the byte.
  local bytes = 0
  local function drop_member(index, member, job, line)
    local located = redis.call('HGET', KEYS.jobs, job)
    local mark = index == KEYS.suspended and ' suspended' or ''
    if located == (line == '' and 'delayed' or 'delayed ' .. line) .. mark then
      redis.call('HDEL', KEYS.jobs, job)
    end
    redis.call('ZREM', index, member)
    return true
  end

  local function promote_one(member)
    local line, job = parted(member)
    local packed = redis.call('HGET', KEYS.delayed, job)
    if not packed then return drop_member(KEYS.due, member, job, line) end
    -- Add it, then remove it: if Redis refuses the first step, the job is still delayed.
    local fields, priority = unpacked(packed)
    if not fields or not pcall(enqueue, priority, job, fields) then return false end
    redis.call('HDEL', KEYS.delayed, job)
    redis.call('ZREM', KEYS.due, member)
    bytes = bytes + #packed
    return true
  end

  local function wake_one(member)
    local line, job = parted(member)
    local packed = redis.call('HGET', KEYS.delayed, job)
    if not packed then return drop_member(KEYS.suspended, member, job, line) end
    bytes = bytes + #packed
    local waits = field(unpacked(packed) or {}, 'waits') or ''
    return wake(job, member, packed, string.match(waits, '^%d+ signal ') and 'timeout' or 'slept', nil, now_ms)
  end

  local next_due = -1
  for _, some in ipairs({{KEYS.due, promote_one}, suspends and {KEYS.suspended, wake_one} or nil}) do
    local index, make_ready = unpack(some)
    local due = due_in(index, exact_ms)
    if due >= 0 and due < 1000 then
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now_ms, 'LIMIT', 0, 100)) do
        if bytes >= 1024 * 1024 then break end
        -- A job that can't be promoted is tried again in a minute, so that it does not block other jobs.
        if not make_ready(member) then redis.call('ZADD', index, whole(now_ms + 60000), member) end
      end
      due = due_in(index, exact_ms)
    end
    if index == KEYS.suspended and due >= 1e15 then due = -1 end -- `inf`: it waits for no time
    if due >= 0 and (next_due < 0 or due < next_due) then next_due = due end
  end
  return next_due
end
