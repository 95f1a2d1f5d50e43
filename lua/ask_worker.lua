#!lua flags=allow-oom
-- ask_worker: ask a worker to claim no more jobs, to claim again, or to stop. Its next beat finds the request.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  wish          quiet, resume or stop
-- Returns  OK         the wish is in the worker's record, in place of an earlier one
--          STOPPING   the worker stops, so it can only be asked to stop; nothing was written
--          NOT_FOUND  the worker has no record, or not any more; nothing was written

--- @include alive tell
local worker, wish = ARGV[1], ARGV[2]
local record = KEYS['worker:'] .. worker

if not alive(worker) then return 'NOT_FOUND' end
local known = redis.call('HMGET', record, 'wish', 'state')
if wish ~= 'stop' and (known[1] == 'stop' or known[2] == 'stopping') then return 'STOPPING' end
redis.call('HSET', record, 'wish', wish)
tell('wish ' .. worker)
return 'OK'
