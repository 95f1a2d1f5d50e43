#!lua flags=allow-oom
-- pause: let nothing of a queue start, or no job of one name. What runs goes on.
--
-- KEYS[1] paused       string  there while the queue is paused
-- KEYS[2] paused:names hash    job names that are paused -> since when, ms
-- KEYS[3] control      channel notifications
--
-- ARGV[1] name         of the jobs; '' for the whole queue
-- ARGV[2] now_ms       int ms; '' = the server's clock
--
-- Returns  OK  it is paused; that may be what it was before

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/tell"

local paused, names, control = KEYS[1], KEYS[2], KEYS[3]
local name, now_ms = ARGV[1], now(ARGV[2])

if name ~= '' then
  expect('hash', names)
  if not redis.call('HGET', names, name) then redis.call('HSET', names, name, whole(now_ms)) end
elseif redis.call('SET', paused, whole(now_ms), 'NX') then
  tell(control, 'paused')
end
return 'OK'
