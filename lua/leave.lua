#!lua flags=allow-oom
-- leave: forget a worker that has ended or died: what it told of itself, and its consumers. A consumer with
-- something pending stays, for its jobs would be lost with it: release them first.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  worker:       hash    prefix; worker:<id> tells of one live worker, and ends with it
--
-- ARGV[1]  worker        worker id
--
-- Returns  in how many of the streams it holds nothing any more

--- @include "include/expect"
--- @include "include/leases"

local streams, worker_prefix = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4]
local worker = ARGV[1]

expect('stream', streams[1], streams[2], streams[3])
local left = 0
for _, stream in ipairs(streams) do
  local held = leases(stream, '-', '+', 1, worker)
  if held and #held == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', worker)
    left = left + 1
  end
end

redis.call('DEL', worker_prefix .. worker)
return left
