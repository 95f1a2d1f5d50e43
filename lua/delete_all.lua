#!lua flags=allow-oom
-- delete_all: throw dead letters away that a filter lets through, the newest first; a step, as of requeue_all. Their pushes are
-- remembered, as that of any job that ends.
--
-- KEYS[1]  jobs          hash    the locator: job id -> where it is
-- KEYS[2]  dead          stream  dead letters
-- KEYS[3]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: see include/mark
-- KEYS[4]  stats         hash    counters
--
-- ARGV[1]  after         where the step before has left off; '' only asks where to begin
-- ARGV[2]  name          of the job; '': any
-- ARGV[3]  text          what its parameters or its error have in them, as it stands; '': any
-- ARGV[4]  fingerprint   of its failure; '': any
-- ARGV[5]  reason        of the dead letter; '': any
-- ARGV[6]  older_ms      int ms  since it died; '': any
-- ARGV[7]  now_ms        int ms; '' = the server's clock
--
-- Returns  {after, id, ...}: where the next step goes on, '' where there is no more; and the ids of those that are gone

--- @include "include/now"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/time_of"
--- @include "include/page"
--- @include "include/bytes_of"
--- @include "include/push_of"
--- @include "include/remove"
--- @include "include/free"
--- @include "include/slot"
--- @include "include/mark"
--- @include "include/remember"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/first_id"
--- @include "include/is_older"
--- @include "include/before"
--- @include "include/passes"
--- @include "include/letters"
--- @include "include/count"
--- @include "include/finish"

local jobs, dead, finished, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local older_ms, now_ms = tonumber(ARGV[6]), now(ARGV[7])
local keys = {jobs = jobs, ending = slot(finished, now_ms), stats = stats}
local wanted = {name = ARGV[2], text = ARGV[3], fingerprint = ARGV[4], reason = ARGV[5]}
wanted.until_ms = older_ms and now_ms - older_ms

expect('stream', dead)
expect('hash', jobs)
expect('set', keys.ending)

local found, after = letters(jobs, dead, ARGV[1], wanted)
local entries, ids, pushes = {}, {}, {}
for i, letter in ipairs(found) do
  entries[i], ids[i], pushes[i] = letter[1], letter[3], push_of(letter[3], field(letter[2], 'nonce'))
end
-- None of them holds a unique key: it was given up before.
if #ids > 0 then finish(keys, 'deleted', {[dead] = entries}, ids, {}, pushes) end
return {after, unpack(ids)}
