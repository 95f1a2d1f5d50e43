#!lua flags=allow-oom
-- forget_relayed: forget the answers to rows of an outbox that are deleted. Their pushes are remembered like those
-- of jobs that end now, because another relay may have read the rows before, and may push them late.
--
-- ARGV[1]   now_ms  int ms; '' = the server's clock
-- ARGV[2]   outbox  names it
-- ARGV[3..] the names of the rows: the job id, after the nonce if the push had one; at most 500
-- Returns  OK  they are forgotten, but for as long as a late push of them may come

--- @include now expect remember
local now_ms = now(ARGV[1])
local first_row = 3
local key, rows = KEYS['relayed:'] .. ARGV[2], {unpack(ARGV, first_row, #ARGV)}

expect('zset', key)
remember(rows, now_ms)
redis.call('ZREM', key, unpack(rows))
return 'OK'
