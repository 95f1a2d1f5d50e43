#!lua flags=allow-oom
-- withdraw_schedules: a scheduler ends, and declares its schedules no longer.
--
-- If it was the last of its release, another release may declare them from now on; its schedulers get a notification.
--
-- KEYS[1] schedulers  zset    release -> when one of its schedulers last said that it is there, ms
-- KEYS[2] schedulers: zset    prefix; schedulers:<release> holds its schedulers: id -> when it last said so, ms
-- KEYS[3] control     channel notifications
--
-- ARGV[1] now_ms    int ms; '' = the server's clock
-- ARGV[2] scheduler who ends
-- ARGV[3] release   of that scheduler
--
-- Returns one word:
--          OK        it is no longer there
--          NOT_FOUND it was not there; nothing was written

--- @include "include/now"
--- @include "include/expect"
--- @include "include/tell"

local schedulers, mates, control = KEYS[1], KEYS[2] .. ARGV[3], KEYS[3]
local now_ms = now(ARGV[1])
local scheduler, release = ARGV[2], ARGV[3]
local there_ms = 30000 -- see is_declared

expect('zset', schedulers, mates)
if redis.call('ZREM', mates, scheduler) == 0 then return 'NOT_FOUND' end
local left = redis.call('ZRANGE', mates, now_ms - there_ms + 1, now_ms + there_ms - 1, 'BYSCORE', 'LIMIT', 0, 1)
if #left == 0 then
  redis.call('ZREM', schedulers, release)
  tell(control, 'withdrawn')
end
return 'OK'
