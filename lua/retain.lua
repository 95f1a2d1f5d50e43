#!lua flags=allow-oom
-- retain: set what the queue keeps, and for how long. The last call counts.
--
-- ARGV[1]  completed     as the hash has it
-- ARGV[2]  cancelled     as the hash has it
-- ARGV[3]  dead          as the hash has it
-- Returns  OK         it is so from now on

--- @include expect
local completed, cancelled, dead = ARGV[1], ARGV[2], ARGV[3]

expect('hash', KEYS.retention)
redis.call('HSET', KEYS.retention, 'completed', completed, 'cancelled', cancelled, 'dead', dead)
return 'OK'
