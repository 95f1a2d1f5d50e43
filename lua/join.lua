#!lua flags=allow-oom
-- join: register a worker under a new id: write its record and its first beat, and create missing groups. Without a lease,
-- only create the groups, for a worker that has joined before; its stream was deleted.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  lease_ms      int ms  the worker's lease; '' = only create the groups
-- ARGV[3]  run           text    random: tells this worker from another one with the same id
-- ARGV[4]  version       int     the version of the keys that the caller knows
-- ARGV[5]  now_ms        int ms; '' = the server's clock
-- Returns  OK       the worker has joined, by this call or by the same call before
--          EXISTS   another worker has or had this id; nothing was written
--          FENCED   the worker has joined before, and has no record any more; nothing was written
--          or the version of the keys, if it is another one; nothing was written. If it is older, and there is no job and no worker
--          of that version, this worker takes the queue over instead

--- @include now expect streams whole alive group tell new_group
local record = KEYS['worker:'] .. ARGV[1]
local worker, lease_ms, run, version = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local now_ms = now(ARGV[5])

expect('stream', KEYS.inbox, unpack(streams))
expect('zset', KEYS.workers)
expect('hash', record, KEYS.layout, KEYS.jobs)

-- Whether an older release has left no job and no worker.
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
if not group(KEYS.inbox) then redis.call('XGROUP', 'CREATE', KEYS.inbox, 'workers', '0', 'MKSTREAM') end
for _, stream in ipairs(streams) do
  if not group(stream) then new_group(stream) end
end
if lease_ms then
  redis.call('HSET', record, 'run', run, 'lease_ms', whole(lease_ms))
  redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), worker)
  tell('joined') -- the only worker so far has another one to watch now
end
return 'OK'
