#!lua flags=allow-oom
-- reclaim: take over the jobs of lost workers. The script fences the workers that the caller names, and hands back
-- the jobs of fenced workers. It returns the workers whose leases are over; the caller may name these next time.
--
-- A lease ends by the server's clock, which may have been set, or have stood still. So the caller names a worker
-- only if two conditions held for as long as that lease, by the caller's clock: the server's clock ran evenly, and
-- the server answered. A worker that has beaten since is not fenced. A beat in the future, from before the clock
-- was set back, counts as now.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     hand back at most this many jobs
-- ARGV[3]  others        '1': count the jobs that other workers hold
-- ARGV[4]  all           '1': look for beats in the future among all workers, not only the latest ten: the caller
--                        has just started, or has seen the clock set back
-- ARGV[5]  now_ms        int ms; '' = the server's clock
-- ARGV[6..] for each worker to fence: worker id, the end of its lease as this script returned it
-- Returns  {now_us, silent, fenced, count, more, released, others, alive, alone, promotes, late, untidy,
--          uncounted}, or one word, FENCED.
--          silent     for each worker whose lease is over {worker id, the end of its lease, lease in ms}, at most
--                     100
--          fenced     the ids fenced now
--          count      number of jobs handed back; more: 1 if there are more
--          released   1 if any job that was handed back has no worker yet
--          others     number of jobs that others hold
--          alive      number of workers whose lease ends after half of this one's
--          alone      1 if there is no other worker, not even a lost or fenced one
--          promotes   1 if this worker is the promoter
--          late       1 if a job has been due for 250 ms, or the turn of a waiting line for 2 s
--          untidy     1 if `workers` may lack some, so that tidy has to look at all consumers
--          uncounted  the streams, 1..3, with too many consumers for a script; XPENDING counts them
--          FENCED  the worker's record is gone; nothing was written

--- @include now alive expect streams whole lease_of fence hand_back_held forget count tell tell_turn any_back
--- @include has_many leases is_waiting event
local worker, most, counts_others = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local looks_at_all, now_ms, exact_ms = ARGV[4] == '1', now(ARGV[5])
local first_silent = 6

local lease_ms = alive(worker)
if not lease_ms then return 'FENCED' end
expect('stream', unpack(streams))
expect('zset', KEYS.workers, KEYS.fenced, KEYS.due, KEYS.turns, KEYS.lines)
expect('string', KEYS.promoter)
expect('hash', KEYS.jobs, KEYS.limits, KEYS.shares)
local looked_at = redis.call('ZRANGEBYSCORE', KEYS.fenced, '-inf', now_ms, 'LIMIT', 0, 10)
if #looked_at < 10 then -- a beat later than the next second: the clock was set back
  local later = redis.call('ZRANGEBYSCORE', KEYS.fenced, whole(now_ms + 1001), '+inf', 'LIMIT', 0, 10 - #looked_at)
  for _, id in ipairs(later) do looked_at[#looked_at + 1] = id end
end

-- Correct leases that end impossibly late. The latest ten are enough: any other lease ends no later than these,
-- and these workers are alive. If the caller wants all, look at the latest 2,500, which takes about 6 ms.
local latest = redis.call('ZREVRANGE', KEYS.workers, 0, looks_at_all and 2499 or 9, 'WITHSCORES')
for i = 1, #latest, 2 do
  if looks_at_all or tonumber(latest[i + 1]) > now_ms + lease_ms then
    local whole_lease = lease_of(latest[i])
    if tonumber(latest[i + 1]) > now_ms + whole_lease then
      redis.call('ZADD', KEYS.workers, whole(now_ms + whole_lease), latest[i])
    end
  end
end

local gone = {}
for at = first_silent, #ARGV, 2 do
  if redis.call('ZSCORE', KEYS.workers, ARGV[at]) == ARGV[at + 1] then
    fence(ARGV[at], now_ms)
    gone[#gone + 1] = ARGV[at]
    table.insert(looked_at, 1, ARGV[at])
  end
end

-- A worker beats after each third of its lease. Where leases are equal, a killed worker is quiet long before its
-- lease is over. Of more than 100 quiet workers some count as alive until the next look.
local silent = {}
local half_ms = math.floor(lease_ms / 2)
local quiet = redis.call('ZRANGEBYSCORE', KEYS.workers, '-inf', whole(now_ms + half_ms),
  'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #quiet, 2 do
  if tonumber(quiet[i + 1]) <= now_ms then silent[#silent + 1] = {quiet[i], quiet[i + 1], lease_of(quiet[i])} end
end

-- Hand back the jobs of fenced workers, including jobs that their late reads have fetched since.
local handed_back, more, is_gone = 0, 0, #gone > 0
for _, id in ipairs(looked_at) do
  -- Its record is lost, or of another type.
  if redis.call('TYPE', KEYS['worker:'] .. id).ok ~= 'hash' then fence(id, now_ms) end
  local some = most > handed_back and hand_back_held(id, most - handed_back, 0, now_ms,
    event(now_ms, 'worker-lost', id)) or 0
  handed_back = handed_back + some
  local watched = redis.call('HMGET', KEYS['worker:'] .. id, 'watch_ms', 'watched_until')
  if some > 0 then
    more = 1
    redis.call('HSET', KEYS['worker:'] .. id, 'watched_until', whole(now_ms + tonumber(watched[1] or 20000)))
  elseif most == handed_back then
    more = 1 -- this one was not looked at
  elseif now_ms < tonumber(watched[2] or 0) then
    redis.call('ZADD', KEYS.fenced, whole(now_ms + 1000), id)
    local latest_ms = now_ms + tonumber(watched[1] or 20000)
    if tonumber(watched[2]) > latest_ms then -- the clock was set back
      redis.call('HSET', KEYS['worker:'] .. id, 'watched_until', whole(latest_ms))
    end
  else
    forget(id)
    redis.call('ZREM', KEYS.fenced, id)
    redis.call('DEL', KEYS['worker:'] .. id)
    is_gone = true
  end
end

if handed_back > 0 then
  count('reclaimed', handed_back)
  tell('released ' .. handed_back)
end
if is_gone then tell_turn() end -- a lost worker may have had to look at that turn
-- The inbox counts too: the worker that was notified of an entry there may have died.
local released, others, uncounted = redis.pcall('XLEN', KEYS.inbox) ~= 0 and 1 or 0, 0, {}
for number, stream in ipairs(streams) do
  if released == 0 and any_back(stream) then released = 1 end
  if counts_others and has_many(stream) then uncounted[#uncounted + 1] = number end
  for _, held in ipairs(counts_others and uncounted[#uncounted] ~= number and (leases(stream) or {})[4] or {}) do
    if held[1] ~= worker and not is_waiting(held[1]) then others = others + tonumber(held[2]) end
  end
end

local known = redis.call('ZCARD', KEYS.workers)
local alone = known + redis.call('ZCARD', KEYS.fenced) < 2 and 1 or 0

-- The promoter looks when delayed jobs are due, and renews its role here within 20 seconds. If it is gone, or the
-- clock was set back since, the caller becomes the promoter.
local function may_promote()
  local until_ms, other = string.match(redis.call('GET', KEYS.promoter) or '', '^(%d+) (.+)$')
  until_ms = tonumber(until_ms or 0)
  local is_valid = until_ms > now_ms and until_ms <= now_ms + 20000
  if other ~= worker and is_valid and redis.call('ZSCORE', KEYS.workers, other) then return false end
  if other ~= worker or not is_valid or until_ms < now_ms + 10000 then
    redis.call('SET', KEYS.promoter, whole(now_ms + 20000) .. ' ' .. worker, 'PX', 20000)
  end
  return true
end

local function is_late(zset, ms)
  return #redis.call('ZRANGEBYSCORE', zset, '-inf', whole(now_ms - ms), 'LIMIT', 0, 1) > 0
end
local promotes = may_promote() and 1 or 0
local late = (is_late(KEYS.due, 250) or is_late(KEYS.turns, 2000)) and 1 or 0
local untidy = redis.pcall('HGET', KEYS.layout, 'tidied_at') == '0' and 1 or 0
return {exact_ms * 1000, silent, gone, handed_back, more, released, others, known - #quiet / 2, alone, promotes,
  late, untidy, uncounted}
