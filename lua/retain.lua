#!lua flags=allow-oom
-- retain: set which jobs the queue keeps, and for how long. The last call counts.
--
-- ARGV[1]  completed     in the words of the hash
-- ARGV[2]  cancelled     in the words of the hash
-- ARGV[3]  dead          in the words of the hash
-- Returns  OK         the queue keeps this from now on

--- @include expect
local completed, cancelled, dead = ARGV[1], ARGV[2], ARGV[3]

expect('hash', KEYS.retention)
redis.call('HSET', KEYS.retention, 'completed', completed, 'cancelled', cancelled, 'dead', dead)
return 'OK'
