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
--
-- ARGV[1]  job           job id, or entry and place of one put in by hand, as 1732-0@low
--
-- Returns  {} if there is no such job, else
--          {job id, place, entry, due ms, consumer, deliveries, mark, held, {name, value, ...}}; '' for what
--          does not apply; mark is `cancelling` if a cancel was asked for while the job ran, `alone` if it runs,
--          or ran last, with nothing beside it; held is 1 if the job is

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

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local jobs, due, delayed, held = KEYS[4], KEYS[5], KEYS[6], KEYS[10]
local aside = {dead = KEYS[7], completed = KEYS[8], cancelled = KEYS[9]}
local job = ARGV[1]
for place, stream in pairs(aside) do places[place] = stream end

local place, entry, mark, id = locate(places, jobs, job)
if not place then return {} end
local fields, priority = stored(places, delayed, id, place .. ' ' .. entry)
if not fields then return {} end
if place == 'delayed' then
  local due_ms = redis.call('ZSCORE', due, member(entry, id)) or ''
  return {id, 'delayed:' .. priority, '', due_ms, '', '', '', is_held(held, id), fields}
end

local consumer, deliveries
if not aside[place] then
  consumer, deliveries = holder(places[place], entry)
end
local known, _, address = identify(places, jobs, place, entry, fields)
return {address, place, entry, '', consumer or '', deliveries or '', mark, is_held(held, known), fields}
