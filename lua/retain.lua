#!lua flags=allow-oom
-- retain: say what the queue keeps, and for how long. Whoever says so last is right.
--
-- KEYS[1]  retention     hash    state -> how long its jobs are kept: ms and count, `-` for no limit; '' not at all
--
-- ARGV[1]  completed     as the hash has it
-- ARGV[2]  cancelled     as the hash has it
-- ARGV[3]  dead          as the hash has it
--
-- Returns  OK         it is so from now on

--- @include "include/expect"

local retention, completed, cancelled, dead = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

expect('hash', retention)
redis.call('HSET', retention, 'completed', completed, 'cancelled', cancelled, 'dead', dead)
return 'OK'
