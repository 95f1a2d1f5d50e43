#!lua flags=allow-oom
-- join: let a worker begin, under a new id: its record, its first beat, the groups that are missing. Without a lease it
-- only makes the groups, for a worker that has begun before, after a stream was deleted.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  lease_ms      int ms  the worker's lease; '' only makes the groups
-- ARGV[3]  run           text    random: tells this worker from another one of the same id
-- ARGV[4]  version       int     of the keys, as the caller knows them
-- ARGV[5]  now_ms        int ms; '' = the server's clock
--
-- Returns  OK       it may begin; also if this very call came before
--          EXISTS   the id is another worker's, or was; nothing was written
--          FENCED   of one that has begun before: it has no record any more; nothing was written
--          or the version of the keys, if it is another; nothing was written. An older one counts only while there is any job or
--          worker of it: else this worker takes the queue over

--- @include now expect streams whole changed_schedules alive group tell

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

-- Up to version 3, `schedules` was a hash: name -> last slot. The slot moves to the schedule itself. All in one call, 5 ms for
-- 1,000: it happens once in the life of a queue, while it has no jobs.
local function take_schedules_over()
  if redis.call('TYPE', KEYS.schedules).ok ~= 'hash' then return end
  local slots, names = redis.call('HGETALL', KEYS.schedules), {}
  redis.call('DEL', KEYS.schedules)
  for i = 1, #slots, 2 do
    local name, last_slot = slots[i], slots[i + 1]
    if redis.call('TYPE', KEYS['schedule:'] .. name).ok == 'hash' then
      redis.call('HSET', KEYS['schedule:'] .. name, 'last_slot', last_slot)
    end
    names[#names + 1] = name
  end
  changed_schedules(now_ms, names)
end

local found = redis.call('HGET', KEYS.layout, 'version')
if found and found ~= version and not may_take_over(found) then return found end
if not lease_ms and not alive(worker) then return 'FENCED' end
if lease_ms and redis.call('EXISTS', record) == 1 and redis.call('HGET', record, 'run') ~= run then return 'EXISTS' end

if found ~= version then
  take_schedules_over()
  redis.call('HSET', KEYS.layout, 'version', version)
end
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
