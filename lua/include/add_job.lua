-- add_job: add one job. `arguments` has its values from `at` on, as for push. `stale` is a leftover member of
-- `due` to remove, or nil; `number` is the job's number in this call; for `newly` see enqueue. `replaced` is a
-- waiting job to replace, as key_holder returns it: it keeps its id and its notes, and gets everything else from
-- the new job.
-- Returns the due time, if it is now the earliest. Then, if the job has a unique key, its holder as key_holder
-- would return it.
--- @include due_time push_of whole line member delay enqueue remove
local function add_job(arguments, at, now_ms, exact_ms, number, stale, newly, replaced)
  local job, nonce, priority = arguments[at], arguments[at + 1], arguments[at + 2]
  local due_at, key = due_time(arguments[at + 3], exact_ms), arguments[at + 4]
  local unique_for, expires_in = arguments[at + 5], arguments[at + 6]
  local notes = push_of(job, nonce) ~= job and {'nonce', nonce} or nil
  if replaced then job, notes, stale = replaced.id, replaced.notes, replaced.member end
  local fields = {'id', job, unpack(arguments, at + 9, at + 8 + tonumber(arguments[at + 8]))}
  for i = 1, notes and #notes or 0 do fields[#fields + 1] = notes[i] end
  if expires_in ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'expires_at', whole(now_ms + tonumber(expires_in))
  end
  if key ~= '' then fields[#fields + 1], fields[#fields + 2] = unique_for == '' and 'unique' or 'window', key end
  local earliest, member_of_due, entry, stream
  if due_at > now_ms then
    if not replaced then fields[#fields + 1], fields[#fields + 2] = 'queued_at', whole(now_ms) end
    if stale then redis.call('ZREM', KEYS.due, stale) end
    local place = line(exact_ms, number)
    member_of_due = member(place, job)
    if delay(job, priority, fields, due_at, place) then earliest = due_at end
    -- The same call may have made it ready before, and the caller writes `newly` after this.
    if replaced and newly then newly[#newly + 1], newly[#newly + 2] = job, 'delayed ' .. place end
  else
    entry, stream = enqueue(priority, job, fields, newly)
    if stale then redis.call('ZREM', KEYS.due, stale) end
    if replaced and replaced.member then redis.call('HDEL', KEYS.delayed, job) end
  end
  if replaced and replaced.entry then remove(replaced.stream, replaced.entry) end
  if key == '' then return earliest end
  if unique_for == '' then
    redis.call('SET', KEYS['unique:'] .. key, job)
  else
    redis.call('SET', KEYS['unique:'] .. key, job, 'PX', unique_for)
  end
  notes = notes or {}
  if not replaced then notes[#notes + 1], notes[#notes + 2] = 'queued_at', whole(now_ms) end
  return earliest, {id = job, notes = notes, stream = stream, entry = entry, member = member_of_due}
end
