#!lua flags=allow-oom
-- remove_schedule: forget a schedule, unless a release that is there declares it.
--
-- KEYS[1] schedules  zset    schedule name -> the number of its last change; of one that is gone, too
-- KEYS[2] schedule:  hash    prefix; schedule:<name> holds one schedule: its rule, its job, what became of it
-- KEYS[3] schedulers zset    release -> when one of its schedulers last said that it is there, ms
-- KEYS[4] layout     hash    version of the keys; the number of the last change of a schedule
-- KEYS[5] control    channel notifications
--
-- ARGV[1] now_ms int ms; '' = the server's clock
-- ARGV[2] name   the schedule
--
-- Returns one word:
--          OK        it is gone, and so is what somebody had put in its place by hand
--          DECLARED  a scheduler that is there declares it, so it would be back at once; nothing was written
--          NOT_FOUND there was none

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/tell"
--- @include "include/last_change"
--- @include "include/changed_schedules"
--- @include "include/schedule"
--- @include "include/is_declared"

local schedules, prefix, schedulers, layout, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local now_ms = now(ARGV[1])
local name = ARGV[2]

expect('hash', layout)
expect('zset', schedules, schedulers)
local there = schedule(prefix, name)
if not there then return 'NOT_FOUND' end
if is_declared(schedulers, there, now_ms) then return 'DECLARED' end
local record = prefix .. name
redis.call('DEL', record)
changed_schedules(schedules, layout, control, now_ms, {name}) -- the name stays for a while, so that schedulers read of it
return 'OK'
