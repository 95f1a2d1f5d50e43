-- add_job: put a job on the queue as push takes one: from `at` on, `arguments` has its id, nonce, priority, due, unique key,
-- unique_for, expires_in, the number of field values, and those. `keys` has streams, jobs, due, delayed, unique; `stale` is
-- a member of `due` that stands for nothing any more, nil for none; `number` is the job's in this call; for `newly`
-- see enqueue. Needs push_of, due_time, whole, line, delay, enqueue beside it.
--
-- Returns whether it was added: not where the ready streams have no entry ids left, then nothing was written; and when it
-- is due, if it is now the first of the delayed jobs
local function add_job(keys, arguments, at, now_ms, exact_ms, number, stale, newly)
  local numbers = {high = 1, normal = 2, low = 3}
  local job, nonce, priority = arguments[at], arguments[at + 1], arguments[at + 2]
  local due_at, key = due_time(arguments[at + 3], exact_ms), arguments[at + 4]
  local unique_for, expires_in = arguments[at + 5], arguments[at + 6]
  local fields = {'id', job, unpack(arguments, at + 8, at + 7 + tonumber(arguments[at + 7]))}
  if push_of(job, nonce) ~= job then fields[#fields + 1], fields[#fields + 2] = 'nonce', nonce end
  if expires_in ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'expires_at', whole(now_ms + tonumber(expires_in))
  end
  if key ~= '' and unique_for == '' then fields[#fields + 1], fields[#fields + 2] = 'unique', key end
  local earliest
  if due_at > now_ms then
    fields[#fields + 1], fields[#fields + 2] = 'queued_at', whole(now_ms)
    if stale then redis.call('ZREM', keys.due, stale) end
    local place = line(exact_ms, number)
    if delay(keys.jobs, keys.due, keys.delayed, job, priority, fields, due_at, place) then earliest = due_at end
  else
    if not enqueue(keys, numbers[priority], job, fields, newly) then return false end
    if stale then redis.call('ZREM', keys.due, stale) end
  end
  if key ~= '' and unique_for == '' then
    redis.call('SET', keys.unique .. key, job)
  elseif key ~= '' then
    redis.call('SET', keys.unique .. key, job, 'PX', unique_for)
  end
  return true, earliest
end
