#!lua flags=allow-oom
-- claim: promote what is due, then lease up to `count` jobs to a worker, strictly by priority, first in
-- first out; a job that was released keeps its place before the new ones. A group that is missing is made.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
-- KEYS[8]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[9]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: ids, after a nonce if there was one
-- KEYS[10] stats         hash    counters
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     most jobs to lease; 0 only promotes
-- ARGV[3]  max_deliveries int    this often a job is delivered without an outcome, the last time alone; then it is dead
-- ARGV[4]  idle          '1': the worker runs nothing and has asked for nothing else, so it may be given a job that
--                        has to run alone, as its workers were lost whenever it ran before
-- ARGV[5]  now_ms        int ms; '' = the server's clock
--
-- Returns  {now_us, due_in, waits_ms, jobs, ended}: the clock, µs until the next delayed job (-1: none), for how many
--          ms a job has been waiting that needs a worker with nothing else to run (-1: none), for each job
--          {stream 1..3, entry, deliveries, {name, value, ...}}, and for each that was ended instead
--          {id, word}: `CANCELLED`, as was asked while it ran, or `DEAD`, a dead letter that kills its workers; or
--          `NO_IDS`, it stays, as `dead` has no entry ids left, by somebody's hand

--- @include "include/now"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/make_group"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/free"
--- @include "include/push_of"
--- @include "include/slot"
--- @include "include/remember"
--- @include "include/pushed_at"
--- @include "include/bury"
--- @include "include/count"
--- @include "include/unlocate"
--- @include "include/deliver"
--- @include "include/enqueue"
--- @include "include/unpacked"
--- @include "include/parted"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local jobs, due, delayed, dead, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local stats = KEYS[10]
local worker, most, max_deliveries, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local now_ms, exact_ms = now(ARGV[5])
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local keys = {jobs = jobs, dead = dead, unique = unique, stats = stats, ended = {}}
keys.places, keys.ending = places, slot(finished, now_ms)

-- All that there is to do, before the first write.
local due_now = redis.call('ZRANGEBYSCORE', due, '-inf', now_ms, 'LIMIT', 0, 500)
local released, any_released = {}, false
for number, stream in ipairs(most > 0 and streams or {}) do
  released[number] = leases(stream, '-', '+', most, 'released')
  any_released = any_released or #(released[number] or {}) > 0
end
if #due_now > 0 then
  expect('stream', streams[1], streams[2], streams[3])
  expect('hash', jobs, delayed)
end
if any_released then
  expect('hash', jobs)
  expect('stream', dead)
  expect('set', keys.ending)
end

-- A delayed job is a JSON list of strings: its priority, then its entry's names and values. Strings only: that is
-- what cjson keeps to the byte.
local numbers = {high = 1, normal = 2, low = 3}
local function promote_one(member)
  local line, job = parted(member)
  local packed = redis.call('HGET', delayed, job)
  if packed then -- added before it is taken away: should the server refuse the one, it has not done the other
    local fields, priority = unpacked(packed)
    local place, entry
    if fields then place, entry = enqueue(streams, numbers[priority], fields) end
    if not place then return false end
    redis.call('HSET', jobs, job, place .. ' ' .. entry)
    redis.call('HDEL', delayed, job)
  elseif redis.call('HGET', jobs, job) == (line == '' and 'delayed' or 'delayed ' .. line) then
    redis.call('HDEL', jobs, job)
  end
  redis.call('ZREM', due, member)
  return true
end

for _, member in ipairs(due_now) do
  -- What can't be promoted, by somebody's hand, is tried again in a minute, and is in nobody's way meanwhile.
  if not promote_one(member) then redis.call('ZADD', due, string.format('%.0f', now_ms + 60000), member) end
end

local claimed, waits_ms = {}, -1
local function runs_nothing()
  if not idle or #claimed > 0 then return false end
  for _, stream in ipairs(streams) do
    if #(leases(stream, '-', '+', 1, worker) or {}) > 0 then return false end
  end
  return true
end

local function take_released(number, stream)
  local page, looked = released[number], 0
  if not page then
    make_group(stream)
    return
  end
  while #page > 0 and most > #claimed do
    for _, pending in ipairs(page) do
      if most == #claimed then return end
      local entry, deliveries = pending[1], pending[4] + 1
      local fields, how =
        deliver(keys, stream, entry, deliveries, max_deliveries, worker, now_ms, runs_nothing)
      if fields then
        claimed[#claimed + 1] = {number, entry, deliveries, fields}
        if how then most = 1 return end
      elseif how == 'waits' then
        waits_ms = math.max(waits_ms, pending[3])
      end
    end
    -- Again where some of them were not to be delivered, or new jobs would pass those behind.
    looked = looked + #page
    if looked >= 500 then return end
    page = leases(stream, '(' .. page[#page][1], '+', most - #claimed, 'released')
  end
end

local function take_new(number, stream)
  local reply = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', most - #claimed, 'STREAMS', stream, '>')
  if not reply then return end
  for _, entry in ipairs(reply[1][2]) do
    claimed[#claimed + 1] = {number, entry[1], 1, entry[2]}
  end
end

for number, stream in ipairs(streams) do
  if most > #claimed then take_released(number, stream) end
  if most > #claimed then take_new(number, stream) end
end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local due_in = -1
if next_due then due_in = math.min(math.max(0, (tonumber(next_due) - exact_ms) * 1000), 1e15) end -- `inf`, by hand
return {exact_ms * 1000, due_in, waits_ms, claimed, keys.ended}
