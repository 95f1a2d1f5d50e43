#!lua flags=allow-oom
-- withdraw_schedules: note that a scheduler ends, and no longer declares its schedules. If it was the last of its
-- release, notify the schedulers of other releases, because now their declarations may count.
--
-- ARGV[1] now_ms    int ms; '' = the server's clock
-- ARGV[2] scheduler the id of the scheduler that ends
-- ARGV[3] release   of that scheduler
-- Returns  OK        the scheduler is removed
--          NOT_FOUND there was no such scheduler; nothing was written

--- @include now expect tell times
local mates = KEYS['schedulers:'] .. ARGV[3]
local now_ms = now(ARGV[1])
local scheduler, release = ARGV[2], ARGV[3]

expect('zset', KEYS.schedulers, mates)
if redis.call('ZREM', mates, scheduler) == 0 then return 'NOT_FOUND' end
local left = redis.call('ZRANGE', mates, now_ms - there_ms + 1, now_ms + there_ms - 1, 'BYSCORE', 'LIMIT', 0, 1)
if #left == 0 then
  redis.call('ZREM', KEYS.schedulers, release)
  tell('withdrawn')
end
return 'OK'
