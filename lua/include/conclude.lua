-- conclude: note how a job has ended, if its result is kept, and notify the processes that wait for it. `word` is
-- `completed`, `cancelled`, `refused`, `dead`, or `reported`, which notes nothing. `text` is the result as JSON,
-- or the reason, or nil if unknown. `keep_ms` is text. Progress and chunks of the job stay for a while. Returns
-- whether its end is kept.
--- @include whole tell_waiters keep_reported
local function conclude(ends, job, word, text, keep_ms)
  local ms = #(keep_ms or '') < 14 and string.match(keep_ms or '', '^%d+$')
  ms = tonumber(ms or 0)
  if ms > 0 and word ~= 'reported' and (text or word ~= 'completed') then
    local outcome = (word == 'completed' or (text or '') == '') and word or word .. ' ' .. text
    -- The outcome outlives the result, to distinguish an expired result from an unknown job.
    redis.call('SET', KEYS['outcome:'] .. job, outcome, 'PX', whole(ms + math.min(ms, 86400000)))
    if word == 'completed' then redis.call('SET', KEYS['result:'] .. job, text, 'PX', whole(ms)) end
  end
  if ms > 0 or word == 'reported' then keep_reported(job, ms) end
  local processes = ends.awaited and redis.call('HGET', KEYS.waiters, job)
  if processes then
    redis.call('HDEL', KEYS.waiters, job)
    tell_waiters(ends, job, processes)
  end
  return ms > 0
end
