#!lua flags=allow-oom
-- delete: throw a dead letter away, or a job that has ended and was kept. Its push is remembered, as that of any job that ends.
--
-- KEYS[1]  jobs          hash    the locator: job id -> where it is
-- KEYS[2]  dead          stream  dead letters
-- KEYS[3]  completed     stream  jobs that are done, where they are kept
-- KEYS[4]  cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[5]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: see include/mark
-- KEYS[6]  stats         hash    counters
--
-- ARGV[1]  job           job id, or entry and place, as 1732-5@dead
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  OK         gone
--          NOT_FOUND  no dead letter, and no job that was kept, has this id; nothing was written

--- @include "include/now"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/push_of"
--- @include "include/remove"
--- @include "include/free"
--- @include "include/slot"
--- @include "include/mark"
--- @include "include/remember"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/count"
--- @include "include/finish"

local jobs, finished, stats = KEYS[1], KEYS[5], KEYS[6]
local aside = {dead = KEYS[2], completed = KEYS[3], cancelled = KEYS[4]}
local job, now_ms = ARGV[1], now(ARGV[2])
local keys = {jobs = jobs, ending = slot(finished, now_ms), stats = stats}

local place, letter, _, id = locate(aside, jobs, job)
local fields = aside[place] and entry_at(aside[place], letter)
if not fields then return 'NOT_FOUND' end
expect('set', keys.ending)

-- None of them holds a unique key: it was given up before.
finish(keys, 'deleted', {[aside[place]] = {letter}}, {id}, {}, {push_of(id, field(fields, 'nonce'))})
return 'OK'
