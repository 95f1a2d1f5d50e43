#!lua flags=allow-oom
-- beat: renew a worker's lease, which covers all its jobs, and note its facts.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] names and values of its facts
-- Returns  {cancels, wish}: the number of cancels requested for its jobs; and the last request of an operator:
--          quiet, resume or stop, '' for none. Or one word:
--          FENCED  the worker's record is gone; nothing was written

--- @include now expect alive whole
local record = KEYS['worker:'] .. ARGV[1]
local worker, now_ms = ARGV[1], now(ARGV[2])
local first_fact = 3
expect('zset', KEYS.workers)
expect('hash', record)
local lease_ms = alive(worker)
if not lease_ms then return 'FENCED' end
if redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), worker) == 1 then
  -- The member was missing, so members of dead workers may be missing too: make tidy look at all. A `layout` of
  -- another type does not stop the beat.
  redis.pcall('HSET', KEYS.layout, 'tidied_at', 0)
end
if #ARGV >= first_fact then redis.call('HSET', record, unpack(ARGV, first_fact)) end
local asked = redis.call('HMGET', record, 'cancels', 'wish')
return {tonumber(asked[1] or nil) or 0, asked[2] or ''}
