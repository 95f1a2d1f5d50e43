#!lua flags=no-writes,allow-oom
-- find: where one job is, and all that is known of it. Writes nothing.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed job ids by due time, ms
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
--
-- ARGV[1]  job           job id
--
-- Returns  {} if there is no such job, else
--          {place, entry, due ms, consumer, deliveries, mark, {name, value, ...}}; '' for what does not
--          apply; mark is `cancelling` if a cancel was asked for while the job ran

--- @include "include/locate"
--- @include "include/leases"
--- @include "include/holder"

local ready = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, due, delayed, dead = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local job = ARGV[1]

local place, entry, mark = locate(ready, jobs, job)
if not place then return {} end

if place == 'delayed' then
  local packed = redis.call('HGET', delayed, job)
  if not packed then return {} end
  local fields = cjson.decode(packed)
  return {'delayed:' .. table.remove(fields, 1), '', redis.call('ZSCORE', due, job) or '', '', '', '', fields}
end

local stream = place == 'dead' and dead or ready[place]
local found = redis.call('XRANGE', stream, entry, entry)[1]
if not found then return {} end
local consumer, deliveries
if place ~= 'dead' then consumer, deliveries = holder(stream, entry) end
return {place, entry, '', consumer or '', deliveries or '', mark, found[2]}
