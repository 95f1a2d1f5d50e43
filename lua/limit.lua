#!lua flags=allow-oom
-- limit: set the limit of a job name, or remove it, at once: jobs of it that run are counted, up to 500 of those that were
-- started without one, and no further one once they have 4 MB, and its waiting lines each get a turn.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  workers       zset    worker ids by the end of their lease, ms
-- KEYS[5]  limits        hash    job name -> its limit, in words
-- KEYS[6]  shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[7]  holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[8]  turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[9]  lines         zset    names and keys that have a waiting line, in alphabetical order
-- KEYS[10] control       channel notifications
--
-- ARGV[1]  name          of the jobs
-- ARGV[2]  limit         as the hash has it: `max_concurrency=3 rate=50/s burst=50`; '' removes it
-- ARGV[3]  after         where to go on with the lines, as the last step said; '' to begin
-- ARGV[4]  now_ms        int ms; '' = the server's clock
--
-- Returns  where to go on: 500 lines have a turn in one step; '' at the end, and where the limit was what it is

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/bytes_of"
--- @include "include/entry_at"
--- @include "include/tell"
--- @include "include/give_turns"

local streams, workers, limits, shares, holders = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local turns, lines, control = KEYS[8], KEYS[9], KEYS[10]
local name, limit, after, now_ms = ARGV[1], ARGV[2], ARGV[3], now(ARGV[4])

expect('stream', streams[1], streams[2], streams[3])
expect('hash', limits, shares)
expect('zset', workers, turns, lines)
local before = redis.call('HGET', limits, name) or ''
if after == '' and before == limit then return '' end

local bytes = 0
local function count_one(stream, entry)
  if bytes >= 4194304 then return end
  local place, fields = string.match(stream, '[^:]+$') .. ' ' .. entry, entry_at(stream, entry)
  bytes = bytes + bytes_of(fields or {})
  if not fields or field(fields, 'name') ~= name or redis.call('HGET', shares, place) then return end
  local key = field(fields, 'limit_key') or ''
  local bucket = key == '' and name or name .. ' ' .. key
  redis.call('HSET', shares, place, bucket)
  redis.pcall('ZADD', holders .. bucket, whole(now_ms), place)
end

local function count_running()
  local looked = 0
  for _, worker in ipairs(redis.call('ZRANGE', workers, 0, 499)) do
    for _, stream in ipairs(streams) do
      local page = looked < 500 and leases(stream, '-', '+', 500 - looked, worker) or {}
      for _, pending in ipairs(page) do count_one(stream, pending[1]) end
      looked = looked + #page
    end
  end
end

if after == '' then
  if limit == '' then
    redis.call('HDEL', limits, name)
  else
    redis.call('HSET', limits, name, limit)
    if before == '' then count_running() end
  end
end
return give_turns(turns, lines, control, name, after, now_ms)
