#!lua flags=allow-oom
-- fail: settle jobs as dead letters, with what is known of the failure.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters: the entry's fields, and the notes
-- KEYS[6]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[7]  stats         hash    counters
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] for each job: stream 1..3, entry, deliveries, job id, unique key ('' none), reason, error, traceback
--
-- Returns  one word for each job:
--          OK          a dead letter
--          NO_IDS      `dead` has no entry ids left, by somebody's hand; nothing was written
--          LEASE_LOST  somebody else holds the job; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/owns"
--- @include "include/pushed_at"
--- @include "include/bury"
--- @include "include/free"
--- @include "include/count"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, dead, unique, stats = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local worker, now_ms = ARGV[1], now(ARGV[2])
local first_job = 3

expect('stream', streams[1], streams[2], streams[3], dead)
expect('hash', jobs)
local words, failed = {}, 0
for at = first_job, #ARGV, 8 do
  local stream, entry, deliveries = streams[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local key, reason, error, traceback = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]
  local hold, job = owns(places, stream, jobs, worker, entry, deliveries, ARGV[at + 3])
  local fields = hold and entry_at(stream, entry)
  if not fields then
    words[#words + 1] = 'LEASE_LOST'
  else
    local notes = {'reason', reason, 'error', error, 'failed_at', whole(now_ms), 'worker', worker,
      'deliveries', deliveries}
    if traceback ~= '' then notes[#notes + 1], notes[#notes + 2] = 'traceback', traceback end
    if bury(stream, jobs, dead, entry, job, fields, notes, now_ms) then
      free(unique, key, job)
      failed = failed + 1
      words[#words + 1] = 'OK'
    else
      words[#words + 1] = 'NO_IDS'
    end
  end
end

if failed > 0 then count(stats, 'dead', failed) end
return words
