#!lua flags=allow-oom
-- pause_schedule: let a schedule fire nothing, or let it fire again.
--
-- KEYS[1] schedules zset    schedule name -> the number of its last change; of one that is gone, too
-- KEYS[2] schedule: hash    prefix; schedule:<name> holds one schedule: its rule, its job, what became of it
-- KEYS[3] layout    hash    version of the keys; the number of the last change of a schedule
-- KEYS[4] control   channel notifications
--
-- ARGV[1] now_ms int ms; '' = the server's clock
-- ARGV[2] name   the schedule
-- ARGV[3] pause  '1': let it fire nothing; '': let it fire again, from now on
--
-- Returns one word:
--          OK        it is as asked; that may be what it was before
--          NOT_FOUND there is none, or what is there is none, by somebody's hand; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/tell"
--- @include "include/last_change"
--- @include "include/changed_schedules"
--- @include "include/schedule"

local schedules, prefix, layout, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now_ms = now(ARGV[1])
local name, pause = ARGV[2], ARGV[3] == '1'

expect('hash', layout)
expect('zset', schedules)
local there = schedule(prefix, name)
if type(there) ~= 'table' then return 'NOT_FOUND' end
local is_paused = there.paused == '1'
if pause and not is_paused then redis.call('HSET', prefix .. name, 'paused', '1') end
if is_paused and not pause then
  redis.call('HDEL', prefix .. name, 'paused')
  redis.call('HSET', prefix .. name, 'last_slot', whole(math.max(now_ms, tonumber(there.last_slot))))
end
changed_schedules(schedules, layout, control, now_ms, pause ~= is_paused and {name} or {})
return 'OK'
