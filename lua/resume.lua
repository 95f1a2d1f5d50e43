#!lua flags=allow-oom
-- resume: let the jobs of a queue, or of one name, start again. The caller then runs unpark; if it does not, tidy
-- notices. Up to 500 waiting lines of the name get a turn at once; shares gives one to the others.
--
-- ARGV[1] name         job name; '' for the whole queue
-- ARGV[2] now_ms       int ms; '' = the server's clock
-- Returns  OK  it is not paused now; maybe it was not before

--- @include now expect give_turns tell
local name, now_ms, exact_ms = ARGV[1], now(ARGV[2])

expect('hash', KEYS.layout)
if name ~= '' then
  expect('hash', KEYS['paused:names'])
  expect('zset', KEYS.turns, KEYS.lines)
  -- A new note each time, so that an unpark that began before does not take it for its own.
  if redis.call('HDEL', KEYS['paused:names'], name) == 1 then
    redis.call('HSET', KEYS.layout, 'unpark', string.format('%.3f', exact_ms))
    give_turns(name, '', now_ms)
  end
elseif redis.call('DEL', KEYS.paused) == 1 then
  tell('resumed')
end
return 'OK'
