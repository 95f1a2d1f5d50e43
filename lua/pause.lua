#!lua flags=allow-oom
-- pause: stop the jobs of a queue, or of one name, from starting. Running jobs continue.
--
-- ARGV[1] name         job name; '' for the whole queue
-- ARGV[2] now_ms       int ms; '' = the server's clock
-- Returns  OK  it is paused now; maybe it was before

--- @include now expect whole tell
local name, now_ms = ARGV[1], now(ARGV[2])
if name ~= '' then
  expect('hash', KEYS['paused:names'])
  if not redis.call('HGET', KEYS['paused:names'], name) then
    redis.call('HSET', KEYS['paused:names'], name, whole(now_ms))
  end
elseif redis.call('SET', KEYS.paused, whole(now_ms), 'NX') then
  tell('paused')
end
return 'OK'
