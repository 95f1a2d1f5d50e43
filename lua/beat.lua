#!lua flags=allow-oom
-- beat: a worker lives: its lease starts anew, and with it that of all it holds.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] names and values that tell of the worker
--
-- Returns  how often somebody has asked to cancel a job of it. Or one word:
--          FENCED  it has no record any more: its jobs are for others; nothing was written

--- @include now expect alive whole

local record = KEYS['worker:'] .. ARGV[1]
local worker, now_ms = ARGV[1], now(ARGV[2])
local first_fact = 3

expect('zset', KEYS.workers)
expect('hash', record)
local lease_ms = alive(worker)
if not lease_ms then return 'FENCED' end

if redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), worker) == 1 then
  -- It was taken out of there; so may others have been that are gone since. Where `layout` is no hash, a beat is worth more.
  redis.pcall('HSET', KEYS.layout, 'tidied_at', 0)
end
if #ARGV >= first_fact then redis.call('HSET', record, unpack(ARGV, first_fact)) end
return tonumber(redis.call('HGET', record, 'cancels') or nil) or 0
