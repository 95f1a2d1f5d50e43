-- conclude: note how a job has ended, if its result is kept, and notify the processes that wait for it. `word` is
-- `completed`, `cancelled`, `refused`, `dead`, or `reported`, which notes nothing; `text` is the result as JSON, or the
-- reason, or nil if unknown. `keep_ms` is text. Its progress stays for another minute, for processes that watch it.
--- @include whole tell_waiters
local function conclude(ends, job, word, text, keep_ms)
  local ms = #(keep_ms or '') < 14 and string.match(keep_ms or '', '^%d+$')
  ms = tonumber(ms or 0)
  if ms > 0 and word ~= 'reported' and (text or word ~= 'completed') then
    local outcome = (word == 'completed' or (text or '') == '') and word or word .. ' ' .. text
    -- It outlives the result, so that we can tell an expired result from an unknown job.
    redis.call('SET', KEYS['outcome:'] .. job, outcome, 'PX', whole(ms + math.min(ms, 86400000)))
    if word == 'completed' then redis.call('SET', KEYS['result:'] .. job, text, 'PX', whole(ms)) end
  end
  if ms > 0 or word == 'reported' then redis.call('PEXPIRE', KEYS['progress:'] .. job, 60000) end
  local processes = ends.awaited and redis.call('HGET', KEYS.waiters, job)
  if not processes then return end
  redis.call('HDEL', KEYS.waiters, job)
  tell_waiters(ends, job, processes)
end
