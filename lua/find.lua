#!lua flags=no-writes,allow-oom
-- find: where one job is, and all that is known of it. Writes nothing.
--
-- ARGV[1]  job           job id, or entry and place, as 1732-0@low
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  {} if there is no such job, else
--          {job id, place, entry, due ms, consumer, deliveries, mark, held, {name, value, ...}, now ms, idle ms, why, progress};
--          '' for what does not apply. mark: `cancelling` if a cancel was asked for while it ran, `alone` if it runs, or last ran,
--          alone. held: 1 if it is. idle: how long its consumer has had it. why: what keeps it from starting, see
--          include/obstacle

--- @include now stream_of locate stored obstacle whole member is_held reported holder is_waiting

local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local job, now_ms = ARGV[1], now(ARGV[2])
for place, stream in pairs(aside) do stream_of[place] = stream end

local place, entry, mark = locate(job)
if not place then return {} end
local fields, priority = stored(job, place .. ' ' .. entry)
if not fields then return {} end
local why, at = obstacle(now_ms), whole(now_ms)
if place == 'delayed' then
  local due_ms, is_on_hold = redis.call('ZSCORE', KEYS.due, member(entry, job)) or '', is_held(job)
  local kept_from = why(nil, is_on_hold, fields)
  return {job, 'delayed:' .. priority, '', due_ms, '', '', '', is_on_hold, fields, at, '', kept_from, reported(job)}
end

local is_on_hold = is_held(job)
if aside[place] then return {job, place, entry, '', '', '', mark, is_on_hold, fields, at, '', '', ''} end
local consumer, deliveries, idle = holder(stream_of[place], entry)
local kept_from = is_waiting(consumer) and why(consumer, is_on_hold, fields) or ''
return {job, place, entry, '', consumer or '', deliveries or '', mark, is_on_hold, fields, at, idle or '', kept_from, reported(job)}
