#!lua flags=no-writes,allow-oom
-- find: where one job is, and all that is known of it. Writes nothing.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
-- KEYS[8]  completed     stream  jobs that are done, where they are kept
-- KEYS[9]  cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[10] held          hash    ids of jobs that are held -> since when, ms
-- KEYS[11] paused        string  there while the queue is paused
-- KEYS[12] paused:names  hash    job names that are paused -> since when, ms
-- KEYS[13] workers       zset    worker ids by the end of their lease, ms
-- KEYS[14] progress:     string  prefix; progress:<id> is what the job has reported last, JSON
--
-- ARGV[1]  job           job id, or entry and place of one put in by hand, as 1732-0@low
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  {} if there is no such job, else
--          {job id, place, entry, due ms, consumer, deliveries, mark, held, {name, value, ...}, now ms, idle ms, why, progress};
--          '' for what does not apply; mark is `cancelling` if a cancel was asked for while the job ran, `alone` if it runs,
--          or ran last, with nothing beside it; held is 1 if the job is; idle is for how long its consumer has had it; why is
--          what keeps one that waits from starting: see include/obstacle

--- @include "include/now"
--- @include "include/whole"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/unpacked"
--- @include "include/stored"
--- @include "include/member"
--- @include "include/leases"
--- @include "include/holder"
--- @include "include/is_held"
--- @include "include/is_waiting"
--- @include "include/obstacle"
--- @include "include/reported"

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local jobs, due, delayed, held = KEYS[4], KEYS[5], KEYS[6], KEYS[10]
local aside = {dead = KEYS[7], completed = KEYS[8], cancelled = KEYS[9]}
local keys = {paused = KEYS[11], paused_names = KEYS[12], workers = KEYS[13], progress = KEYS[14]}
local job, now_ms = ARGV[1], now(ARGV[2])
for place, stream in pairs(aside) do places[place] = stream end

local place, entry, mark, id = locate(places, jobs, job)
if not place then return {} end
local fields, priority = stored(places, delayed, id, place .. ' ' .. entry)
if not fields then return {} end
local why, at = obstacle(keys, now_ms), whole(now_ms)
if place == 'delayed' then
  local due_ms, is_on_hold = redis.call('ZSCORE', due, member(entry, id)) or '', is_held(held, id)
  local kept_from = why(nil, is_on_hold, fields)
  return {id, 'delayed:' .. priority, '', due_ms, '', '', '', is_on_hold, fields, at, '', kept_from, reported(keys, id)}
end

local known, _, address = identify(places, jobs, place, entry, fields)
local is_on_hold = is_held(held, known)
if aside[place] then return {address, place, entry, '', '', '', mark, is_on_hold, fields, at, '', '', ''} end
local consumer, deliveries, idle = holder(places[place], entry)
local kept_from = is_waiting(consumer) and why(consumer, is_on_hold, fields) or ''
local said = reported(keys, known)
return {address, place, entry, '', consumer or '', deliveries or '', mark, is_on_hold, fields, at, idle or '', kept_from, said}
