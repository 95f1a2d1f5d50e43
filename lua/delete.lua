#!lua flags=allow-oom
-- delete: throw a dead letter away. Its push is remembered, as that of any job that ends.
--
-- KEYS[1]  jobs          hash    the locator: job id -> where it is
-- KEYS[2]  dead          stream  dead letters
-- KEYS[3]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: ids, after a nonce if there was one
-- KEYS[4]  stats         hash    counters
--
-- ARGV[1]  job           job id, or entry and place, as 1732-5@dead
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  OK         gone
--          NOT_FOUND  no dead letter has this id; nothing was written

--- @include "include/now"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/push_of"
--- @include "include/remove"
--- @include "include/free"
--- @include "include/slot"
--- @include "include/remember"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/count"
--- @include "include/finish"

local jobs, dead, finished, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local job, now_ms = ARGV[1], now(ARGV[2])
local keys = {jobs = jobs, ending = slot(finished, now_ms), stats = stats}

local place, letter, _, id = locate({dead = dead}, jobs, job)
local fields = place == 'dead' and entry_at(dead, letter)
if not fields then return 'NOT_FOUND' end
expect('set', keys.ending)

-- A dead letter holds no unique key: it was given up when the job became one.
finish(keys, 'deleted', {[dead] = {letter}}, {id}, {}, {push_of(id, field(fields, 'nonce'))})
return 'OK'
