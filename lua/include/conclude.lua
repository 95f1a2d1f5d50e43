-- conclude: write down how a job has ended, where its result is kept, and tell the processes that wait for it. `word` is
-- `completed`, `cancelled`, `refused` or `dead`; `text` is its result as JSON, or why; nil for a job that is done and of which
-- no result is known: then nothing is written down. So too where `word` is `reported`. What it has reported last is there for
-- another minute, for those who watch it. `keep_ms` is how long, as text; what is no time counts as 0.
--
-- `ends` has the prefixes result, outcome, progress and waiter; waiters; and `awaited`, whether anybody waits for any job. It is
-- nil where the id is another job's by now. The outcome outlives the result, so that one that is over can be told from one that
-- never was. Needs whole, tell_waiters beside it.
local function conclude(ends, job, word, text, keep_ms)
  if not ends then return end
  local ms = #(keep_ms or '') < 14 and string.match(keep_ms or '', '^%d+$')
  ms = tonumber(ms or 0)
  if ms > 0 and word ~= 'reported' and (text or word ~= 'completed') then
    local outcome = (word == 'completed' or (text or '') == '') and word or word .. ' ' .. text
    redis.call('SET', ends.outcome .. job, outcome, 'PX', whole(ms + math.min(ms, 86400000)))
    if word == 'completed' then redis.call('SET', ends.result .. job, text, 'PX', whole(ms)) end
  end
  if ms > 0 or word == 'reported' then redis.call('PEXPIRE', ends.progress .. job, 60000) end
  local processes = ends.awaited and redis.call('HGET', ends.waiters, job)
  if not processes then return end
  redis.call('HDEL', ends.waiters, job)
  tell_waiters(ends, job, processes)
end
