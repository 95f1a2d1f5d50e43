#!lua flags=no-writes,allow-oom
-- find: return one job with all its facts. Writes nothing.
--
-- ARGV[1]  job           job id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  {} if there is no such job, else its row, see include/viewer

--- @include now locate viewer stored entry_at stream_of member holder
local aside = {completed = KEYS.completed, cancelled = KEYS.cancelled}
local job, show = ARGV[1], viewer(now(ARGV[2]))

local place, entry, mark = locate(job)
if not place then return {} end
if aside[place] then
  local fields = entry_at(aside[place], entry)
  return fields and show(job, place, entry, fields, mark) or {}
end
local fields, priority = stored(job, place .. ' ' .. entry)
if not fields then return {} end
if place ~= 'delayed' then return show(job, place, entry, fields, mark, '', holder(stream_of[place], entry)) end
local index = mark == 'suspended' and KEYS.suspended or KEYS.due
return show(job, 'delayed:' .. priority, '', fields, mark, redis.call('ZSCORE', index, member(entry, job)))
