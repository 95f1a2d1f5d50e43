#!lua flags=no-writes,allow-oom
-- relayed: return the rows of an outbox that are remembered because they may not be deleted yet. The relay asks
-- for old rows.
--
-- ARGV[1]  outbox    names it
-- ARGV[2]  older_ms  int ms  only rows that were answered this long ago
-- ARGV[3]  now_ms    int ms; '' = the server's clock
-- Returns  the names of up to 500 rows, the oldest first: the job id, after the nonce if the push had one

--- @include now checked
local now_ms = now(ARGV[3])
local key = KEYS['relayed:'] .. ARGV[1]
return checked('zset', key, redis.pcall('ZRANGE', key, '-inf', now_ms - ARGV[2], 'BYSCORE', 'LIMIT', 0, 500))
