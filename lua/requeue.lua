#!lua flags=allow-oom
-- requeue: give a dead letter another life: ready again, or delayed, under its old id, with all its attempts. Where it is
-- asked for, also a job that has ended and was kept.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters: the entry's fields, and the notes
-- KEYS[8]  completed     stream  jobs that are done, where they are kept
-- KEYS[9]  cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[10] stats         hash    counters
-- KEYS[11] control       channel notifications
-- KEYS[12] result:       string  prefix; result:<id> is what the job's handler returned, JSON, where that is kept
-- KEYS[13] outcome:      string  prefix; outcome:<id> is how the job has ended, where its result is kept
-- KEYS[14] progress:     string  prefix; progress:<id> is what the job has reported last, JSON
-- KEYS[15] large         hash    priority -> of unread jobs of 16 KB or more: the last entry, most bytes, bytes of all
--
-- ARGV[1]  job           job id, or entry and place, as 1732-5@dead
-- ARGV[2]  due           when it may run: '' now, '+5000' in ms, or a time in ms
-- ARGV[3]  parameters    JSON text in place of what it had; '' = as they are
-- ARGV[4]  limit_key     what its limit is counted under, in place of what it had; '' = as it is
-- ARGV[5]  ended         '1': also a job that has ended and was kept; '' = a dead letter only
-- ARGV[6]  now_ms        int ms; '' = the server's clock
--
-- Returns  OK         ready, or delayed
--          NOT_FOUND  no dead letter, and no job that was kept and asked for, has this id; nothing was written
--          OVERSIZED  put in by hand with more values than a script can add; nothing was written
--          NO_IDS     the ready streams have no entry ids left, by somebody's hand; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/due_time"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/with"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/line"
--- @include "include/delay"
--- @include "include/bytes_of"
--- @include "include/note_large"
--- @include "include/enqueue"
--- @include "include/remove"
--- @include "include/forget_ends"
--- @include "include/count"
--- @include "include/tell"
--- @include "include/requeuing"

local streams, jobs, due, delayed = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5], KEYS[6]
local aside = {dead = KEYS[7], completed = KEYS[8], cancelled = KEYS[9]}
local keys = {streams = streams, jobs = jobs, due = due, delayed = delayed, stats = KEYS[10], control = KEYS[11]}
keys.result, keys.outcome, keys.progress, keys.large = KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local job, now_ms, exact_ms = ARGV[1], now(ARGV[6])
local due_at, parameters, limit_key, ended = due_time(ARGV[2], exact_ms), ARGV[3], ARGV[4], ARGV[5] == '1'
local changes = {}
if parameters ~= '' then changes = {'parameters', parameters} end
if limit_key ~= '' then changes[#changes + 1], changes[#changes + 2] = 'limit_key', limit_key end

local place, letter, _, id = locate(aside, jobs, job)
local found = (place == 'dead' or ended) and aside[place] and entry_at(aside[place], letter)
if not found then return 'NOT_FOUND' end
if due_at > now_ms then
  expect('zset', due)
  expect('hash', delayed)
else
  expect('stream', streams[1], streams[2], streams[3])
end

local add, write = requeuing(keys, now_ms, exact_ms)
local is_added, is_large = add(aside[place], letter, id, found, changes, due_at)
if is_large then return 'OVERSIZED' end
if not is_added then return 'NO_IDS' end
write()
return 'OK'
