#!lua flags=allow-oom
-- retry: settle jobs that are to run again later, with some of their fields changed.
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
--          LEASE_LOST  somebody else holds the job; nothing was written

--- @include "include/now"
--- @include "include/due_time"
--- @include "include/whole"
--- @include "include/owns"
--- @include "include/field"
--- @include "include/with"
--- @include "include/delay"
--- @include "include/free"
--- @include "include/remember"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local jobs, due, delayed, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local stats, control = KEYS[9], KEYS[10]
local worker = ARGV[1]
local now_ms, exact_ms = now(ARGV[2])
local first_job = 3

local words, retried, cancelled, nudge = {}, 0, 0, nil
local at = first_job
while at <= #ARGV do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local hold, job = owns(stream, jobs, worker, entry, ARGV[at + 2], ARGV[at + 3])
  local found = hold and redis.call('XRANGE', stream, entry, entry)[1]
  local key, due_at = ARGV[at + 4], due_time(ARGV[at + 5], exact_ms)
  local changes = {}
  local last = at + 6 + tonumber(ARGV[at + 6])
  for i = at + 7, last do changes[#changes + 1] = ARGV[i] end
  at = last + 1

  if not found then
    words[#words + 1] = 'LEASE_LOST'
  elseif #found[2] > 1000 and hold ~= 'cancelling' then
    words[#words + 1] = 'OVERSIZED'
  else
    if hold == 'cancelling' then
      redis.call('HDEL', jobs, job)
      free(unique, key, job)
      remember(finished, now_ms, {job})
      cancelled = cancelled + 1
      words[#words + 1] = 'CANCELLED'
    else
      if field(found[2], 'id') ~= job then table.insert(changes, 1, job) table.insert(changes, 1, 'id') end
      if not field(found[2], 'queued_at') then
        changes[#changes + 1], changes[#changes + 2] = 'queued_at', string.match(entry, '^%d+')
      end
      local fields = with(found[2], changes)
      if due_at > now_ms then
        local priority = string.match(stream, '}:ready:(.+)$')
        if delay(jobs, due, delayed, job, priority, fields, due_at) then nudge = due_at end
      else
        local again = redis.call('XADD', stream, '*', unpack(fields))
        redis.call('HSET', jobs, job, string.match(stream, '}:(.+)$') .. ' ' .. again)
      end
      retried = retried + 1
      words[#words + 1] = 'OK'
    end
    -- Last: should the server refuse to add the job again, it still has it here.
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
  end
end

if retried > 0 then redis.call('HINCRBY', stats, 'retried', retried) end
if cancelled > 0 then redis.call('HINCRBY', stats, 'cancelled', cancelled) end
if nudge then redis.call('PUBLISH', control, 'due ' .. whole(nudge)) end
return words
