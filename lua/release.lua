#!lua flags=allow-oom
-- release: hand back all that a worker holds, and forget the worker: it ends, or is known to have died. Its jobs are for
-- others at once, in their place.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  workers       zset    worker ids by the end of their lease, ms
-- KEYS[5]  worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[6]  fenced        zset    ids of fenced workers by when their consumer is looked at next, ms
-- KEYS[7]  stats         hash    counters
-- KEYS[8]  control       channel notifications
-- KEYS[9]  jobs          hash    the locator: job id -> where it is
-- KEYS[10] limits        hash    job name -> its limit, in words
-- KEYS[11] shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[12] holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[13] rate:         string  prefix; rate:<name> <key> has the theoretical arrival time of its next job, µs
-- KEYS[14] turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[15] lines         zset    names and keys that have a waiting line, in alphabetical order
-- KEYS[16] promoter      string  until when, ms, and which worker looks when delayed jobs are due
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  refund        '1': the deliveries do not count, as nothing runs any more; '0': they do, as what ran may be what
--                        ended it; and so they do where the worker was fenced before
-- ARGV[3]  watch         '1': a read of it may still be under way, so its consumer is looked at again, as that of a
--                        worker that was fenced is
-- ARGV[4]  now_ms        int ms; '' = the server's clock
--
-- Returns  how many jobs were handed back: some 500 a call, so call again while there are any

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/count"
--- @include "include/tell"
--- @include "include/tell_turn"
--- @include "include/lease_of"
--- @include "include/fence"
--- @include "include/unlocate"
--- @include "include/hand_back"
--- @include "include/limit_of"
--- @include "include/give_up"
--- @include "include/hand_back_held"
--- @include "include/forget"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local workers, record, fenced, stats, control, jobs = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local promoter = KEYS[16]
local worker, refund, watch, now_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', now(ARGV[4])
local keys = {workers = workers, fenced = fenced, record = record, streams = streams, jobs = jobs}
keys.limits, keys.shares, keys.holders, keys.rate, keys.turns, keys.lines =
  KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]

expect('stream', streams[1], streams[2], streams[3])
expect('zset', workers, fenced)
expect('string', promoter)
expect('hash', jobs, keys.limits, keys.shares)
expect('zset', keys.turns, keys.lines)

if string.match(redis.call('GET', promoter) or '', '^%d+ (.+)$') == worker then
  redis.call('DEL', promoter)
  tell(control, 'left') -- whoever looks next for lost workers is the next
end
local was_fenced = redis.call('ZSCORE', fenced, worker)
if was_fenced then
  refund = 0
elseif refund == 0 then
  fence(keys, worker, now_ms)
end
local released = hand_back_held(keys, worker, 500, refund, now_ms)
if released == 0 and refund > 0 then
  if watch then
    fence(keys, worker, now_ms)
  else
    forget(streams, worker)
    redis.call('ZREM', workers, worker)
    redis.call('DEL', record .. worker)
  end
end

if released > 0 then
  count(stats, 'released', released)
  tell(control, 'released ' .. released)
end
tell_turn(keys.turns, control) -- it may be the one that was to look then
return released
