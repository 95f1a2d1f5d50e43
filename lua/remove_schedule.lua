#!lua flags=allow-oom
-- remove_schedule: forget a schedule, unless a release that is there declares it.
--
-- KEYS[1] schedules hash    schedule name -> the last slot that was seen to, ms
-- KEYS[2] schedule: hash    prefix; schedule:<name> holds one schedule: its rule, its job, what became of it
-- KEYS[3] layout    hash    version of the keys; how often the schedules were changed
-- KEYS[4] control   channel notifications
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
--- @include "include/times_changed"
--- @include "include/changed_schedules"
--- @include "include/schedule"
--- @include "include/is_declared"

local schedules, prefix, layout, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now_ms = now(ARGV[1])
local name = ARGV[2]

expect('hash', schedules, layout)
local there = schedule(schedules, prefix, name)
if is_declared(there, now_ms) then return 'DECLARED' end
local record = prefix .. name
local gone = redis.call('DEL', record) + redis.call('HDEL', schedules, name)
if gone == 0 then return 'NOT_FOUND' end
changed_schedules(layout, control, true)
return 'OK'
