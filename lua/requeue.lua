#!lua flags=allow-oom
-- requeue: give a dead letter another life: ready again, under its old id, with all its attempts.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters: the entry's fields, and the notes
-- KEYS[6]  stats         hash    counters
--
-- ARGV[1]  job           job id, or entry and place, as 1732-5@dead
--
-- Returns  OK         ready
--          NOT_FOUND  no dead letter has this id; nothing was written
--          OVERSIZED  put in by hand with more values than a script can add; nothing was written
--          NO_IDS     the ready streams have no entry ids left, by somebody's hand; nothing was written

--- @include "include/expect"
--- @include "include/field"
--- @include "include/with"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/enqueue"
--- @include "include/remove"
--- @include "include/count"

local streams, jobs, dead, stats = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5], KEYS[6]
local keys = {streams = streams, jobs = jobs}
local numbers = {high = 1, normal = 2, low = 3}
local job = ARGV[1]

local place, letter, _, id = locate({dead = dead}, jobs, job)
local found = place == 'dead' and entry_at(dead, letter)
if not found then return 'NOT_FOUND' end
if field(found, 'entry') and not field(found, 'queued_at') then return 'OVERSIZED' end -- as dead_letter packs it
expect('stream', streams[1], streams[2], streams[3])

local fields = with(found, {
  'reason', '', 'error', '', 'traceback', '', 'error_type', '', 'fingerprint', '', 'failed_at', '', 'worker', '',
  'deliveries', '', 'priority', '', 'attempt', '', 'unknown_since', '', 'expires_at', '',
  'started_at', '', 'unique', '',
})
if field(fields, 'id') ~= id then fields = with(fields, {'id', id}) end
if #fields > 1000 then return 'OVERSIZED' end
if not enqueue(keys, numbers[field(found, 'priority') or ''] or 2, id, fields) then return 'NO_IDS' end
remove(dead, letter)
count(stats, 'requeued', 1)
return 'OK'
