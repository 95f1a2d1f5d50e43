#!lua flags=allow-oom
-- tidy: remove consumers of workers that are gone, and dead letters past their keeping. A consumer goes
-- only with nothing pending (its pending jobs would be lost with it) and with its worker's key gone too.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters
-- KEYS[6]  worker:       hash    prefix; worker:<id> tells of one live worker, and ends with it
--
-- ARGV[1]  idle_ms       int ms  a consumer unheard of for this long is gone
-- ARGV[2]  keep_dead_ms  int ms  dead letters older than this go; '' keeps them
-- ARGV[3]  now_ms        int ms; '' = the server's clock
--
-- Returns  {consumers removed, dead letters removed}; at most 500 of each a call

--- @include "include/now"
--- @include "include/whole"
--- @include "include/leases"
--- @include "include/field"

local streams, jobs, dead, worker_prefix = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5], KEYS[6]
local idle_ms, keep_dead_ms, now_ms = tonumber(ARGV[1]), ARGV[2], now(ARGV[3])

local consumers = 0
for _, stream in ipairs(streams) do
  for _, consumer in ipairs(leases(stream) and redis.call('XINFO', 'CONSUMERS', stream, 'workers') or {}) do
    local name = field(consumer, 'name')
    local gone = field(consumer, 'pending') == 0 and field(consumer, 'idle') > idle_ms
    if gone and consumers < 500 and redis.call('EXISTS', worker_prefix .. name) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
      consumers = consumers + 1
    end
  end
end

local letters = 0
if keep_dead_ms ~= '' then
  local last = whole(now_ms - tonumber(keep_dead_ms))
  for _, letter in ipairs(redis.call('XRANGE', dead, '-', last, 'COUNT', 500)) do
    redis.call('HDEL', jobs, field(letter[2], 'id'))
    redis.call('XDEL', dead, letter[1])
    letters = letters + 1
  end
end
return {consumers, letters}
