#!lua flags=allow-oom
-- join: register a worker under a new id: write its record and its first beat, and create missing groups. Without
-- a lease, only create the groups, for a worker that has joined before and whose stream was deleted.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  lease_ms      int ms  the worker's lease; '' = only create the groups
-- ARGV[3]  run           text    random: tells this worker from another one with the same id
-- ARGV[4]  version       int     the version of the keys that the caller knows
-- ARGV[5]  reads         int     the oldest version whose jobs it can run unchanged
-- ARGV[6]  now_ms        int ms; '' = the server's clock
-- Returns  OK       the worker has joined, by this call or by the same call before
--          EXISTS   another worker has or had this id; nothing was written
--          FENCED   the worker has joined before, and its record is gone; nothing was written
--          or the version of the keys, if it is another one; nothing was written. If the version is older and no
--          worker of it is alive, this worker takes the queue over instead. It keeps the jobs if it can run them;
--          otherwise it only takes over a queue without jobs

--- @include now expect streams whole alive group tell new_group fence
local record = KEYS['worker:'] .. ARGV[1]
local worker, lease_ms, run, version, reads = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local now_ms = now(ARGV[6])

expect('stream', KEYS.inbox, unpack(streams))
expect('zset', KEYS.workers, KEYS.fenced)
expect('hash', record, KEYS.layout, KEYS.jobs)

local function has_jobs()
  for _, stream in ipairs(streams) do
    if redis.call('XLEN', stream) > 0 then return true end
  end
  return redis.call('EXISTS', KEYS.jobs) == 1
end

-- Return whether an older release has left no worker, and no job that this one can't run.
local function may_take_over(found)
  local older = tonumber(found) or math.huge
  if not lease_ms or older > tonumber(version) then return false end
  if #redis.call('ZRANGEBYSCORE', KEYS.workers, whole(now_ms), '+inf', 'LIMIT', 0, 1) > 0 then return false end
  return older >= reads or not has_jobs()
end

local found = redis.call('HGET', KEYS.layout, 'version')
if found and found ~= version and not may_take_over(found) then return found end
if not lease_ms and not alive(worker) then return 'FENCED' end
if lease_ms and redis.call('EXISTS', record) == 1 and redis.call('HGET', record, 'run') ~= run then
  return 'EXISTS'
end

if found ~= version then redis.call('HSET', KEYS.layout, 'version', version) end
if found and found ~= version then -- a worker of the older release that was silent for a lease must not come back
  for _, id in ipairs(redis.call('ZRANGE', KEYS.workers, 0, -1)) do fence(id, now_ms) end
end
if not group(KEYS.inbox) then redis.call('XGROUP', 'CREATE', KEYS.inbox, 'workers', '0', 'MKSTREAM') end
for _, stream in ipairs(streams) do
  if not group(stream) then new_group(stream) end
end
if lease_ms then
  redis.call('HSET', record, 'run', run, 'lease_ms', whole(lease_ms))
  redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), worker)
  tell('joined') -- the only worker so far now has another one to watch
end
return 'OK'
