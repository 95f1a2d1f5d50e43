#!lua flags=allow-oom
-- requeue_all: give dead letters that a filter lets through another life, the newest first; a step, which takes up to 200, and
-- looks at 500 and at about 1 MB. The next goes on after the last that this one has looked at, so who dies anew meanwhile is not
-- taken again.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters: the entry's fields, and the notes
-- KEYS[8]  stats         hash    counters
-- KEYS[9]  control       channel notifications
-- KEYS[10] result:       string  prefix; result:<id> is what the job's handler returned, JSON, where that is kept
-- KEYS[11] outcome:      string  prefix; outcome:<id> is how the job has ended, where its result is kept
-- KEYS[12] progress:     string  prefix; progress:<id> is what the job has reported last, JSON
-- KEYS[13] large         hash    priority -> of unread jobs of 16 KB or more: the last entry, most bytes, bytes of all
--
-- ARGV[1]  after         where the step before has left off; '' only asks where to begin
-- ARGV[2]  name          of the job; '': any
-- ARGV[3]  text          what its parameters or its error have in them, as it stands; '': any
-- ARGV[4]  fingerprint   of its failure; '': any
-- ARGV[5]  reason        of the dead letter; '': any
-- ARGV[6]  older_ms      int ms  since it died; '': any
-- ARGV[7]  wait_ms       ms      until the first of them may run; none, or less: now
-- ARGV[8]  pause_ms      ms      from one of them to the next
-- ARGV[9]  now_ms        int ms; '' = the server's clock
--
-- Returns  {after, id, ...}: where the next step goes on, '' where there is no more; and the ids of those that were requeued.
--          One that is too large, put in by hand, stays; so does each where the ready streams have no entry ids left

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/time_of"
--- @include "include/page"
--- @include "include/bytes_of"
--- @include "include/with"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/first_id"
--- @include "include/is_older"
--- @include "include/before"
--- @include "include/passes"
--- @include "include/letters"
--- @include "include/line"
--- @include "include/delay"
--- @include "include/note_large"
--- @include "include/enqueue"
--- @include "include/remove"
--- @include "include/forget_ends"
--- @include "include/count"
--- @include "include/tell"
--- @include "include/requeuing"

local streams, jobs, dead = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[7]
local keys = {streams = streams, jobs = jobs, due = KEYS[5], delayed = KEYS[6], stats = KEYS[8], control = KEYS[9]}
keys.result, keys.outcome, keys.progress, keys.large = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local now_ms, exact_ms = now(ARGV[9])
local older_ms, wait_ms, pause_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local wanted = {name = ARGV[2], text = ARGV[3], fingerprint = ARGV[4], reason = ARGV[5]}
wanted.until_ms = older_ms and now_ms - older_ms

expect('stream', streams[1], streams[2], streams[3], dead)
expect('zset', keys.due)
expect('hash', jobs, keys.delayed)

local found, after = letters(jobs, dead, ARGV[1], wanted)
local add, write = requeuing(keys, now_ms, exact_ms)
for _, letter in ipairs(found) do
  local due_at = wait_ms > 0 and math.ceil(exact_ms + wait_ms) or 0
  if add(dead, letter[1], letter[3], letter[2], {}, due_at) then wait_ms = wait_ms + pause_ms end
end
return {after, unpack(write())}
