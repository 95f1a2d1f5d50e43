#!lua flags=allow-oom
-- resume: let the jobs of a queue start again, or those of one name. What was parked for that is passed on by unpark, which
-- whoever resumes runs next; should it not come to that, tidy does. Waiting lines of the name have a turn at once, up to 500 of
-- them; shares gives one to the others.
--
-- KEYS[1] paused       string  there while the queue is paused
-- KEYS[2] paused:names hash    job names that are paused -> since when, ms
-- KEYS[3] layout       hash    `unpark`: jobs may be parked that may start, since when
-- KEYS[4] control      channel notifications
-- KEYS[5] turns        zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[6] lines        zset    names and keys that have a waiting line, in alphabetical order
--
-- ARGV[1] name         of the jobs; '' for the whole queue
-- ARGV[2] now_ms       int ms; '' = the server's clock
--
-- Returns  OK  it is not paused; that may be what it was before

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/tell"
--- @include "include/give_turns"

local paused, names, layout, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local turns, lines = KEYS[5], KEYS[6]
local name, now_ms, exact_ms = ARGV[1], now(ARGV[2])

expect('hash', layout)
if name ~= '' then
  expect('hash', names)
  expect('zset', turns, lines)
  -- The note is new each time: an unpark that began before must not take it for its own.
  if redis.call('HDEL', names, name) == 1 then
    redis.call('HSET', layout, 'unpark', string.format('%.3f', exact_ms))
    give_turns(turns, lines, control, name, '', now_ms)
  end
elseif redis.call('DEL', paused) == 1 then
  tell(control, 'resumed')
end
return 'OK'
