#!lua flags=allow-oom
-- screen: of jobs that a worker has just read, keep it those that may start. The others count as never delivered: they are
-- parked where their name is paused or they are held, and else, where the queue is paused, handed back.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[6]  paused        string  there while the queue is paused
-- KEYS[7]  paused:names  hash    job names that are paused -> since when, ms
-- KEYS[8]  held          hash    ids of jobs that are held -> since when, ms
--
-- ARGV[1]  worker        worker id
-- ARGV[2..] for each job: stream 1..3, entry
--
-- Returns  for each job 1 if the worker has it and it may start, else 0. Or one word:
--          FENCED  the worker has no record any more; nothing was written

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/alive"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/may_not_start"
--- @include "include/restrictions"
--- @include "include/hand_back"

local streams, jobs, record = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5] .. ARGV[1]
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local worker = ARGV[1]
local first_job = 2

if not alive(record) then return 'FENCED' end
expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs)
local limits = restrictions(KEYS[6], KEYS[7], KEYS[8])

-- To whom an entry goes: nil if the worker keeps it.
local function heir(stream, entry)
  local fields = limits and entry_at(stream, entry)
  if not fields then return nil end
  local place = string.match(stream, '}:(.+)$')
  if limits.job(identify(places, jobs, place, entry, fields), fields) then return 'parked' end
  return limits.all and 'released' or nil
end

local answers = {}
for at = first_job, #ARGV, 2 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local pending = (leases(stream, entry, entry, 1, worker) or {})[1]
  local to = pending and heir(stream, entry)
  if to then hand_back(stream, math.max(0, pending[4] - 1), {entry}, to) end
  answers[#answers + 1] = pending and not to and 1 or 0
end
return answers
