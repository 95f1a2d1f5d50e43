#!lua flags=allow-oom
-- remove_schedule: remove a schedule, unless a living scheduler declares it.
--
-- ARGV[1] now_ms int ms; '' = the server's clock
-- ARGV[2] name   the schedule
-- Returns  OK        it is removed, even if its key held no schedule
--          DECLARED  a living scheduler declares it, so it would come back at once; nothing was written
--          NOT_FOUND there was no such schedule

--- @include now expect schedule is_declared changed_schedules
local now_ms = now(ARGV[1])
local name = ARGV[2]

expect('hash', KEYS.layout)
expect('zset', KEYS.schedules, KEYS.schedulers)
local there = schedule(name)
if not there then return 'NOT_FOUND' end
if is_declared(there, now_ms) then return 'DECLARED' end
local record = KEYS['schedule:'] .. name
redis.call('DEL', record)
changed_schedules(now_ms, {name}) -- the name stays for a while, so that schedulers notice
return 'OK'
