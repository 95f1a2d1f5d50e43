-- reject: make a dead letter of an entry that no push has added. Its id is its entry id. If another job has that
-- id, the time is added, or the next ms that makes the id unique. Returns the id.
--- @include set_aside remove count whole
local function reject(stream, entry, fields, why, now_ms, priority)
  local job, at_ms = entry, now_ms
  while redis.call('HGET', KEYS.jobs, job) do
    job, at_ms = entry .. '-' .. whole(at_ms), at_ms + 1
  end
  local notes = {'reason', 'undecodable', 'error', why, 'failed_at', whole(now_ms)}
  priority = priority or string.match(stream, '}:ready:(.+)$')
  assert(set_aside(KEYS.dead, priority, entry, job, fields, notes, now_ms), KEYS.dead .. ' has no entry ids left')
  remove(stream, entry)
  count('dead', 1)
  return job
end
