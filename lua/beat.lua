#!lua flags=allow-oom
-- beat: a worker lives: its lease starts anew, and with it that of all it holds.
--
-- KEYS[1]  workers       zset    worker ids by the end of their lease, ms
-- KEYS[2]  worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[3]  layout        hash    when all consumers were looked at last
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] names and values that tell of the worker
--
-- Returns  how often somebody has asked to cancel a job of it. Or one word:
--          FENCED  it has no record any more: its jobs are for others; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/alive"

local workers, record = KEYS[1], KEYS[2] .. ARGV[1]
local worker, now_ms = ARGV[1], now(ARGV[2])
local first_fact = 3

expect('zset', workers)
expect('hash', record)
local lease_ms = alive(record)
if not lease_ms then return 'FENCED' end

if redis.call('ZADD', workers, whole(now_ms + lease_ms), worker) == 1 then
  -- It was taken out of there; so may others have been that are gone since. Where `layout` is no hash, a beat is worth more.
  redis.pcall('HSET', KEYS[3], 'tidied_at', 0)
end
if #ARGV >= first_fact then redis.call('HSET', record, unpack(ARGV, first_fact)) end
return tonumber(redis.call('HGET', record, 'cancels') or nil) or 0
