#!lua flags=allow-oom
-- resume: let the jobs of a queue start again, or those of one name. What was parked for that is passed on by unpark, which
-- whoever resumes runs next; should it not come to that, tidy does.
--
-- KEYS[1] paused       string  there while the queue is paused
-- KEYS[2] paused:names hash    job names that are paused -> since when, ms
-- KEYS[3] layout       hash    `unpark`: jobs may be parked that may start, since when
-- KEYS[4] control      channel notifications
--
-- ARGV[1] name         of the jobs; '' for the whole queue
-- ARGV[2] now_ms       int ms; '' = the server's clock
--
-- Returns  OK  it is not paused; that may be what it was before

--- @include "include/now"
--- @include "include/expect"
--- @include "include/tell"

local paused, names, layout, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, _, exact_ms = ARGV[1], now(ARGV[2])

expect('hash', layout)
if name ~= '' then
  expect('hash', names)
  -- The note is new each time: an unpark that began before must not take it for its own.
  if redis.call('HDEL', names, name) == 1 then redis.call('HSET', layout, 'unpark', string.format('%.3f', exact_ms)) end
elseif redis.call('DEL', paused) == 1 then
  tell(control, 'resumed')
end
return 'OK'
