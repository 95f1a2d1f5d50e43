#!lua flags=allow-oom
-- tidy: remove consumers of workers that are gone. A consumer goes only with nothing pending (its pending jobs
-- would be lost with it) and with its worker's key gone too.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  worker:       hash    prefix; worker:<id> tells of one live worker, and ends with it
--
-- ARGV[1]  idle_ms       int ms  a consumer unheard of for this long is gone
--
-- Returns  how many were removed; at most 500 a call

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"

local streams, worker_prefix = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4]
local idle_ms = tonumber(ARGV[1])
expect('stream', streams[1], streams[2], streams[3])

local removed = 0
for _, stream in ipairs(streams) do
  for _, consumer in ipairs(leases(stream) and redis.call('XINFO', 'CONSUMERS', stream, 'workers') or {}) do
    local name = field(consumer, 'name')
    local gone = field(consumer, 'pending') == 0 and field(consumer, 'idle') > idle_ms
    if gone and removed < 500 and redis.call('EXISTS', worker_prefix .. name) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
      removed = removed + 1
    end
  end
end

return removed
