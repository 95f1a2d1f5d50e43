#!lua flags=allow-oom
-- hold: keep one waiting job from starting. It keeps its due time, priority and place.
--
-- ARGV[1]  job           job id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  HELD       it is held now; maybe it was before
--          RUNNING    it runs; nothing was written
--          DEAD       it is a dead letter; nothing was written
--          NOT_FOUND  no such job, or it ended; nothing was written

--- @include stream_of now locate entry_at holder is_waiting expect whole
local job, now_ms = ARGV[1], now(ARGV[2])

local place, entry = locate(job)
if not place then return 'NOT_FOUND' end
if place == 'dead' then return 'DEAD' end
local stream = stream_of[place] -- nil: delayed, or it has ended
if not stream and place ~= 'delayed' then return 'NOT_FOUND' end
if stream then
  if not entry_at(stream, entry) then return 'NOT_FOUND' end
  local consumer = holder(stream, entry)
  if not is_waiting(consumer) then return 'RUNNING' end
end
expect('hash', KEYS.held)
if not redis.call('HGET', KEYS.held, job) then redis.call('HSET', KEYS.held, job, whole(now_ms)) end
return 'HELD'
