#!lua flags=allow-oom
-- retry: settle jobs that are to run again later, with some of their fields changed.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[8]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: ids, after a nonce if there was one
-- KEYS[9]  stats         hash    counters
-- KEYS[10] control       channel notifications
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] for each job: stream 1..3, entry, deliveries, job id, unique key ('' none),
--           due ('+5000' in ms, or a time in ms), number of change values,
--           then names and values of the fields to change (a value of '' removes the field)
--
-- Returns  one word for each job:
--          OK          delayed, or ready if it was due
--          CANCELLED   a cancel was asked for while it ran: gone instead
--          OVERSIZED   put in by hand with more values than a script can add; nothing was written
--          NO_IDS      the ready streams have no entry ids left, by somebody's hand; nothing was written
--          LEASE_LOST  somebody else holds the job; nothing was written

--- @include "include/now"
--- @include "include/due_time"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/owns"
--- @include "include/with"
--- @include "include/pushed_at"
--- @include "include/line"
--- @include "include/delay"
--- @include "include/enqueue"
--- @include "include/free"
--- @include "include/push_of"
--- @include "include/slot"
--- @include "include/remember"
--- @include "include/count"
--- @include "include/tell"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, due, delayed, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local stats, control = KEYS[9], KEYS[10]
local worker = ARGV[1]
local now_ms, exact_ms = now(ARGV[2])
local first_job = 3

expect('stream', streams[1], streams[2], streams[3])
expect('hash', delayed)
expect('zset', due)
local ending = slot(finished, now_ms)
expect('set', ending)

-- Add the job again, as changed, and say whether that was possible.
local words, retried, cancelled, nudge = {}, 0, 0, nil
local function again(number, entry, job, fields, changes, due_at)
  if field(fields, 'id') ~= job then table.insert(changes, 1, job) table.insert(changes, 1, 'id') end
  if not field(fields, 'queued_at') then
    changes[#changes + 1], changes[#changes + 2] = 'queued_at', pushed_at(entry, now_ms)
  end
  fields = with(fields, changes)
  if due_at > now_ms then
    local priority = string.match(streams[number], '}:ready:(.+)$')
    if delay(jobs, due, delayed, job, priority, fields, due_at, line(exact_ms, retried)) then nudge = due_at end
  else
    local place, added = enqueue(streams, number, fields)
    if not place then return false end
    redis.call('HSET', jobs, job, place .. ' ' .. added)
  end
  retried = retried + 1
  return true
end

local at = first_job
while at <= #ARGV do
  local number, entry = tonumber(ARGV[at]), ARGV[at + 1]
  local stream = streams[number]
  local hold, job = owns(places, stream, jobs, worker, entry, ARGV[at + 2], ARGV[at + 3])
  local fields = hold and entry_at(stream, entry)
  local key, due_at = ARGV[at + 4], due_time(ARGV[at + 5], exact_ms)
  local changes = {}
  local last = at + 6 + tonumber(ARGV[at + 6])
  for i = at + 7, last do changes[#changes + 1] = ARGV[i] end
  at = last + 1

  local word = 'OK'
  if not fields then
    word = 'LEASE_LOST'
  elseif hold == 'cancelling' then
    redis.call('HDEL', jobs, job)
    free(unique, key, job)
    remember(ending, {push_of(job, field(fields, 'nonce'))})
    cancelled = cancelled + 1
    word = 'CANCELLED'
  elseif #fields > 1000 then
    word = 'OVERSIZED'
  elseif not again(number, entry, job, fields, changes, due_at) then
    word = 'NO_IDS'
  end
  words[#words + 1] = word
  if word == 'OK' or word == 'CANCELLED' then
    -- Last: should the server refuse to add the job again, it still has it here.
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
  end
end

if retried > 0 then count(stats, 'retried', retried) end
if cancelled > 0 then count(stats, 'cancelled', cancelled) end
if nudge then tell(control, 'due ' .. whole(nudge)) end
return words
