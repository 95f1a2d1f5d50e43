#!lua flags=allow-oom
-- claim: promote what is due, then lease up to `count` jobs to a worker, strictly by priority, first in
-- first out; a job that was released keeps its place before the new ones. A group that is missing is made.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed job ids by due time, ms
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
-- KEYS[8]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[9]  finished:     set     prefix; finished:<n> holds ids of jobs that ended in those 5 s
-- KEYS[10] stats         hash    counters
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     most jobs to lease; 0 only promotes
-- ARGV[3]  max_deliveries int    a job handed out more often than this is a dead letter
-- ARGV[4]  now_ms        int ms; '' = the server's clock
--
-- Returns  {now_us, due_in, jobs, ended}: the clock, µs until the next delayed job (-1: none), for each job
--          {stream 1..3, entry, deliveries, {name, value, ...}}, and for each that was ended instead
--          {id, word}: `CANCELLED`, as was asked while it ran, or `DEAD`, a dead letter, handed out too often

--- @include "include/now"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/free"
--- @include "include/remember"
--- @include "include/bury"
--- @include "include/hand_out"
--- @include "include/suspects"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local ready = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local jobs, due, delayed, dead, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local stats = KEYS[10]
local worker, count, max_deliveries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now_ms, exact_ms = now(ARGV[4])
local keys = {jobs = jobs, dead = dead, unique = unique, finished = finished, stats = stats, ended = {}}

-- Earliest first. A delayed job is a JSON list of strings: its priority, then its entry's names and values.
-- Strings only: that is what cjson keeps to the byte.
local function promote(limit)
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now_ms, 'LIMIT', 0, limit)) do
    local packed = redis.call('HGET', delayed, job)
    if packed then -- added before it is taken away: should the server refuse the one, it has not done the other
      local fields = cjson.decode(packed)
      local stream = ready[table.remove(fields, 1)]
      local entry = redis.call('XADD', stream, '*', unpack(fields))
      redis.call('HSET', jobs, job, string.match(stream, '}:(.+)$') .. ' ' .. entry)
    else
      redis.call('HDEL', jobs, job)
    end
    redis.call('ZREM', due, job)
    redis.call('HDEL', delayed, job)
  end
end

local claimed = {}
local is_for_others, note = suspects(streams, worker, max_deliveries, {})

local function take_released(number, stream, from)
  local waiting = leases(stream, from, '+', count - #claimed, 'released')
  if not waiting then
    -- From the stream's start: `$` would skip what was pushed before any worker.
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    return 0
  end
  for _, pending in ipairs(waiting) do
    local entry, deliveries = pending[1], pending[4] + 1
    if not is_for_others(deliveries) then
      local found = redis.call('XCLAIM', stream, 'workers', worker, 0, entry)[1]
      local handed_out = found
        and hand_out(keys, stream, entry, deliveries, found[2], max_deliveries, worker, now_ms)
      if handed_out then claimed[#claimed + 1] = {number, entry, deliveries, found[2]} end
      note(deliveries, handed_out)
    end
  end
  return #waiting, waiting[#waiting] and '(' .. waiting[#waiting][1]
end

local function take_new(number, stream)
  local reply = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', count - #claimed, 'STREAMS', stream, '>')
  if not reply then return end
  for _, entry in ipairs(reply[1][2]) do
    claimed[#claimed + 1] = {number, entry[1], 1, entry[2]}
  end
end

promote(500)
for number, stream in ipairs(streams) do
  -- Again where some of them were not to be handed out, or new jobs would pass those behind.
  local looked, found, from = 0, nil, '-'
  while count > #claimed and found ~= 0 and looked < 500 do
    found, from = take_released(number, stream, from)
    looked = looked + found
  end
  if count > #claimed then take_new(number, stream) end
end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local due_in = -1
if next_due then due_in = math.max(0, (tonumber(next_due) - exact_ms) * 1000) end
return {exact_ms * 1000, due_in, claimed, keys.ended}
