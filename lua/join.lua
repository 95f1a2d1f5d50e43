#!lua flags=allow-oom
-- join: let a worker begin, under a new id: its record, its first beat, the groups that are missing. Without a lease it
-- only makes the groups, for a worker that has begun before, after a stream was deleted.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  lease_ms      int ms  the worker's lease; '' only makes the groups
-- ARGV[3]  run           text    random: tells this worker from another one of the same id
-- ARGV[4]  version       int     of the keys, as the caller knows them
-- ARGV[5]  now_ms        int ms; '' = the server's clock
-- Returns  OK       it may begin; also if this very call came before
--          EXISTS   the id is another worker's, or was; nothing was written
--          FENCED   of one that has begun before: it has no record any more; nothing was written
--          or the version of the keys, if it is another; nothing was written. An older one counts only while there is any job or
--          worker of it: else this worker takes the queue over

--- @include now expect streams whole alive group tell
local record = KEYS['worker:'] .. ARGV[1]
local worker, lease_ms, run, version = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local now_ms = now(ARGV[5])

expect('stream', KEYS.inbox, unpack(streams))
expect('zset', KEYS.workers)
expect('hash', record, KEYS.layout, KEYS.jobs)

-- Whether an older release has left nothing that only it can read.
local function may_take_over(found)
  if not lease_ms or (tonumber(found) or math.huge) > tonumber(version) then return false end
  for _, stream in ipairs(streams) do
    if redis.call('XLEN', stream) > 0 then return false end
  end
  return redis.call('EXISTS', KEYS.jobs) == 0 and #redis.call('ZRANGEBYSCORE', KEYS.workers, whole(now_ms), '+inf', 'LIMIT', 0, 1) == 0
end

local found = redis.call('HGET', KEYS.layout, 'version')
if found and found ~= version and not may_take_over(found) then return found end
if not lease_ms and not alive(worker) then return 'FENCED' end
if lease_ms and redis.call('EXISTS', record) == 1 and redis.call('HGET', record, 'run') ~= run then return 'EXISTS' end

if found ~= version then redis.call('HSET', KEYS.layout, 'version', version) end
for _, stream in ipairs({KEYS.inbox, unpack(streams)}) do
  -- From its start: `$` would skip what was pushed before any worker came.
  if not group(stream) then redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM') end
end
if lease_ms then
  redis.call('HSET', record, 'run', run, 'lease_ms', whole(lease_ms))
  redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), worker)
  tell('joined') -- a worker that was alone has another to watch now
end
return 'OK'
