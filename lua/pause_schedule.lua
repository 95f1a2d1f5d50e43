#!lua flags=allow-oom
-- pause_schedule: stop a schedule from firing, or let it fire again.
--
-- ARGV[1] now_ms int ms; '' = the server's clock
-- ARGV[2] name   the schedule
-- ARGV[3] pause  '1': stop it; '': let it fire again, from now on
-- ARGV[4] moved_to  noted with a pause, unless it is paused: the queue of another store to which a mover takes it;
--                   '' for none
-- Returns  OK        the schedule is in the requested state; maybe it was before
--          NOT_FOUND there is no such schedule, or its key has another type; nothing was written

--- @include now expect schedule whole changed_schedules
local now_ms = now(ARGV[1])
local name, pause, moved_to = ARGV[2], ARGV[3] == '1', ARGV[4]

expect('hash', KEYS.layout)
expect('zset', KEYS.schedules)
local there = schedule(name)
if type(there) ~= 'table' then return 'NOT_FOUND' end
local is_paused = there.paused == '1'
if pause and not is_paused then
  redis.call('HSET', KEYS['schedule:'] .. name, 'paused', '1')
  if moved_to ~= '' then redis.call('HSET', KEYS['schedule:'] .. name, 'moved_to', moved_to) end
end
if is_paused and not pause then
  redis.call('HDEL', KEYS['schedule:'] .. name, 'paused', 'moved_to')
  redis.call('HSET', KEYS['schedule:'] .. name, 'last_slot', whole(math.max(now_ms, tonumber(there.last_slot))))
end
changed_schedules(now_ms, pause ~= is_paused and {name} or {})
return 'OK'
