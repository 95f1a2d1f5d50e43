#!lua flags=no-writes,allow-oom
-- workers: a queue's workers, and what each has said of itself with its last beat; a step at a time, some 100 workers. Writes nothing.
--
-- ARGV[1]  after         where the step before has left off; '0' to begin
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  {after, now ms, worker, end of its lease in ms, {value, ...}, ...}: where the next step goes on, '0' where there is
--          no more; then three for each worker, with the values of host, pid, started, concurrency, running, version, names.
--          A worker that was there all the while comes at least once

--- @include now

local after, now_ms = ARGV[1], now(ARGV[2])

-- By cursor: the order by lease changes with each beat, so pages of it would leave workers out.
local step = redis.call('ZSCAN', KEYS.workers, after, 'COUNT', 100)
local found = {step[1], string.format('%.0f', now_ms)}
for i = 1, #step[2], 2 do
  local worker, until_ms = step[2][i], step[2][i + 1]
  local told = redis.pcall('HMGET', KEYS['worker:'] .. worker, 'host', 'pid', 'started', 'concurrency', 'running', 'version', 'names')
  found[#found + 1], found[#found + 2], found[#found + 3] = worker, until_ms, told.err and {} or told
end
return found
