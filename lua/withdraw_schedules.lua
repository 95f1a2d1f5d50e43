#!lua flags=allow-oom
-- withdraw_schedules: a scheduler ends, and declares its schedules no longer. If it was the last of its release, the
-- schedulers of others get a notification, as they may declare them now.
--
-- ARGV[1] now_ms    int ms; '' = the server's clock
-- ARGV[2] scheduler who ends
-- ARGV[3] release   of that scheduler
-- Returns  OK        it is no longer there
--          NOT_FOUND it was not there; nothing was written

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
