#!lua flags=allow-oom
-- cancel: make a waiting job go away, or ask the worker that runs it to cancel its handler.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
-- KEYS[8]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[9]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: see include/mark
-- KEYS[10] stats         hash    counters
-- KEYS[11] control       channel notifications
-- KEYS[12] worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[13] retention     hash    state -> how long its jobs are kept: ms and count, `-` for no limit; '' not at all
-- KEYS[14] completed     stream  jobs that are done, where they are kept
-- KEYS[15] cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[16] held          hash    ids of jobs that are held -> since when, ms
-- KEYS[17] result:       string  prefix; result:<id> is what the job's handler returned, JSON, where that is kept
-- KEYS[18] outcome:      string  prefix; outcome:<id> is how the job has ended, where its result is kept
-- KEYS[19] progress:     string  prefix; progress:<id> is what the job has reported last, JSON
-- KEYS[20] waiters       hash    job id -> processes that wait for its end
-- KEYS[21] waiter:       channel prefix; waiter:<process> has the notifications to one that waits
--
-- ARGV[1]  job           job id, or entry and place of one put in by hand, as 1732-0@low
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  CANCELLED   it was delayed or ready: gone
--          CANCELLING  it runs: noted beside its place and in its worker's record, which hears of it with its next
--                      beat; it won't run again
--          DEAD        it is a dead letter; nothing was written
--          NOT_FOUND   no such job, or it ended; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/free"
--- @include "include/push_of"
--- @include "include/slot"
--- @include "include/mark"
--- @include "include/remember"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/unpacked"
--- @include "include/stored"
--- @include "include/member"
--- @include "include/leases"
--- @include "include/holder"
--- @include "include/is_waiting"
--- @include "include/count"
--- @include "include/remove"
--- @include "include/tell"
--- @include "include/ends"
--- @include "include/tell_waiters"
--- @include "include/conclude"
--- @include "include/pushed_at"
--- @include "include/set_aside"
--- @include "include/kept"
--- @include "include/keep"
--- @include "include/finish"
--- @include "include/finish_one"

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3], dead = KEYS[7]}
local jobs, due, delayed, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[8], KEYS[9]
local stats, control, record = KEYS[10], KEYS[11], KEYS[12]
local retention, completed, cancelled, held = KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local result, outcome, progress, waiters, waiter = KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21]
local job, now_ms = ARGV[1], now(ARGV[2])
local keys = {jobs = jobs, unique = unique, ending = slot(finished, now_ms), stats = stats}

local place, entry, _, id = locate(places, jobs, job)
if not place then return 'NOT_FOUND' end
if place == 'dead' then return 'DEAD' end
local fields, priority = stored(places, delayed, id, place .. ' ' .. entry)
if not fields then return 'NOT_FOUND' end
expect('set', keys.ending)
expect('hash', held)
keys.ends = ends(result, outcome, progress, waiters, waiter)

local stream = places[place] -- nil: delayed
if place == 'delayed' then
  expect('zset', due)
  keys.kept = kept(retention, completed, cancelled)
  redis.call('ZREM', due, member(entry, id))
  redis.call('HDEL', delayed, id)
else
  local consumer = holder(stream, entry)
  if not is_waiting(consumer) then
    expect('hash', record .. consumer)
    redis.call('HSET', jobs, id, place .. ' ' .. entry .. ' cancelling')
    local known = redis.call('HMGET', record .. consumer, 'lease_ms', 'cancels')
    if known[1] then -- no HINCRBY: who may not count may cancel all the same
      redis.call('HSET', record .. consumer, 'cancels', whole((tonumber(known[2] or nil) or 0) + 1))
    end
    tell(control, 'cancel ' .. id)
    return 'CANCELLING'
  end
end

keys.kept = keys.kept or kept(retention, completed, cancelled)
redis.call('HDEL', held, id)
finish_one(keys, 'cancelled', stream, entry, id, fields, now_ms, {}, priority)
return 'CANCELLED'
