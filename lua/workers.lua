#!lua flags=no-writes,allow-oom
-- workers: list the workers of a queue, with the facts of their last beats, about 100 workers a step. Writes
-- nothing.
--
-- ARGV[1]  after         where the step before stopped; '0' to begin
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  {after, now ms, worker, end of its lease in ms, {value, ...}, ...}: where the next step begins, '0' at
--          the end; then three values for each worker. The last has its host, pid, started, concurrency, running,
--          version, names, state, wish. A worker that is registered from the first step to the last comes at least
--          once

--- @include now
local after, now_ms = ARGV[1], now(ARGV[2])

-- With a cursor: each beat changes the order by lease, so pages in that order would miss workers.
local step = redis.call('ZSCAN', KEYS.workers, after, 'COUNT', 100)
local found = {step[1], string.format('%.0f', now_ms)}
for i = 1, #step[2], 2 do
  local worker, until_ms = step[2][i], step[2][i + 1]
  local facts = redis.pcall('HMGET', KEYS['worker:'] .. worker, 'host', 'pid', 'started', 'concurrency',
    'running', 'version', 'names',
    'state', 'wish')
  found[#found + 1], found[#found + 2], found[#found + 3] = worker, until_ms, facts.err and {} or facts
end
return found
