#!lua flags=no-writes,allow-oom
-- backlog: return since when the oldest ready jobs have been ready, and the number of workers. Writes nothing.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- Returns  {now ms, workers, {priority, since, ...}}: since is an entry id, or the due time (ms) of a job that is
--          not promoted yet. A priority without waiting jobs is left out; a priority may come several times

--- @include now backlogs
local now_ms = now(ARGV[1])
local since = backlogs(now_ms)
local alive = redis.call('ZCOUNT', KEYS.workers, string.format('(%.0f', now_ms), '+inf')
return {string.format('%.0f', now_ms), alive, since}
