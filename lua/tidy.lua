#!lua flags=allow-oom
-- tidy: look at all consumers, once a minute in the whole fleet. What one without a record holds is reclaimed from now
-- on, as that of a fenced worker is: its record was lost in a failover, or taken away by hand. One that holds nothing is
-- removed. Each waiting line is looked at once, should its turn be lost, or be far off, as the clock was set back.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  workers       zset    worker ids by the end of their lease, ms
-- KEYS[5]  worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[6]  fenced        zset    ids of fenced workers by when their consumer is looked at next, ms
-- KEYS[7]  layout        hash    when this was done last; `unpark`: jobs may be parked that may start
-- KEYS[8]  turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[9]  lines         zset    names and keys that have a waiting line, in alphabetical order
-- KEYS[10] shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
--
-- ARGV[1]  idle_ms       int ms  a consumer that holds nothing and is unheard of for this long is removed
-- ARGV[2]  every_ms      int ms  nothing is done where it was done so lately
-- ARGV[3]  now_ms        int ms; '' = the server's clock
--
-- Returns  {count, suspects, parked, began, shares}: how many consumers were removed, or are to be looked at, at most 500 a call; 1 if
--          there may be entries that are neither pending nor still to be read, by somebody's hand: see restore; 1 if jobs
--          may be parked that may start, as whoever resumed them came no further: see unpark; 1 if this was done now,
--          and so what is kept no longer is to be trimmed; and 1 if jobs run that have limits: see shares

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/is_waiting"
--- @include "include/alive"
--- @include "include/field"
--- @include "include/group"
--- @include "include/lease_of"
--- @include "include/fence"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local workers, record, fenced, layout = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local turns, lines, shares = KEYS[8], KEYS[9], KEYS[10]
local idle_ms, every_ms, now_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), now(ARGV[3])
local keys = {workers = workers, fenced = fenced, record = record}

expect('stream', streams[1], streams[2], streams[3])
expect('zset', workers, fenced, turns, lines)
expect('hash', layout, shares)
local last_ms = tonumber(redis.call('HGET', layout, 'tidied_at') or nil)
if last_ms and last_ms <= now_ms and now_ms < last_ms + every_ms then return {0, 0, 0, 0, 0} end

local total, suspects = 0, 0
local function give_turn(stream, name, pending)
  local bucket = string.match(name, '^line:(.*)$')
  if not bucket then return end
  if pending > 0 then
    redis.call('ZADD', lines, 0, bucket)
    redis.call('ZADD', turns, 'LT', whole(now_ms), bucket)
  elseif not redis.call('ZSCORE', lines, bucket) then
    redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
    total = total + 1
  end
end
for _, stream in ipairs(streams) do
  for _, consumer in ipairs(leases(stream) and redis.call('XINFO', 'CONSUMERS', stream, 'workers') or {}) do
    local name, pending = field(consumer, 'name'), field(consumer, 'pending')
    give_turn(stream, name, pending)
    local known = is_waiting(name) or redis.call('ZSCORE', workers, name) or redis.call('ZSCORE', fenced, name)
    if not known and total < 500 then
      local kind = redis.call('TYPE', record .. name).ok
      local lease_ms = kind == 'hash' and alive(record .. name)
      if lease_ms then -- `workers` was taken away; it lives, or is fenced a lease from now
        redis.call('ZADD', workers, whole(now_ms + lease_ms), name)
      elseif pending > 0 then
        fence(keys, name, now_ms)
        total = total + 1
      elseif field(consumer, 'idle') > idle_ms then
        redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
        redis.call('DEL', record .. name) -- of one that was fenced, of which `fenced` lost the note
        total = total + 1
      end
    end
  end
end

for _, stream in ipairs(streams) do
  local ours = group(stream)
  local unread = ours and field(ours, 'lag') -- none where the server has lost count
  if ours and (not unread or redis.call('XLEN', stream) > field(ours, 'pending') + unread) then suspects = 1 end
end
redis.call('HSET', layout, 'tidied_at', whole(now_ms))
return {total, suspects, redis.call('HGET', layout, 'unpark') and 1 or 0, 1, redis.call('EXISTS', shares)}
