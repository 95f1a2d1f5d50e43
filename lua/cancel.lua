#!lua flags=allow-oom
-- cancel: make a waiting job go away, or ask the worker that runs it to cancel its handler.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed job ids by due time, ms
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[8]  finished:     set     prefix; finished:<n> holds ids of jobs that ended in those 5 s
-- KEYS[9]  stats         hash    counters
-- KEYS[10] control       channel nudges
--
-- ARGV[1]  job           job id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  CANCELLED   it was delayed or ready: gone
--          CANCELLING  it runs: noted beside its place, and its worker is told; it won't run again
--          DEAD        it is a dead letter; nothing was written
--          NOT_FOUND   no such job, or it ended; nothing was written

--- @include "include/now"
--- @include "include/field"
--- @include "include/free"
--- @include "include/remember"
--- @include "include/locate"
--- @include "include/leases"
--- @include "include/holder"

local ready = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, due, delayed, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local stats, control = KEYS[9], KEYS[10]
local job, now_ms = ARGV[1], now(ARGV[2])

local place, entry = locate(ready, jobs, job)
local fields
if place == 'delayed' then
  local packed = redis.call('HGET', delayed, job)
  fields = packed and cjson.decode(packed) or {'normal'}
  table.remove(fields, 1)
  redis.call('ZREM', due, job)
  redis.call('HDEL', delayed, job)
elseif place == 'dead' then
  return 'DEAD'
elseif place then
  local stream = ready[place]
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return 'NOT_FOUND' end
  local consumer = holder(stream, entry)
  if consumer and consumer ~= 'released' then
    redis.call('HSET', jobs, job, place .. ' ' .. entry .. ' cancelling')
    redis.call('PUBLISH', control, 'cancel ' .. job)
    return 'CANCELLING'
  end
  fields = found[2]
  if consumer then redis.call('XACK', stream, 'workers', entry) end
  redis.call('XDEL', stream, entry)
else
  return 'NOT_FOUND'
end

redis.call('HDEL', jobs, job)
free(unique, field(fields, 'unique'), job)
remember(finished, now_ms, {job})
redis.call('HINCRBY', stats, 'cancelled', 1)
return 'CANCELLED'
