#!lua flags=allow-oom
-- restore: hand back jobs that were delivered, and of which the pending list knows nothing: somebody has removed their
-- consumer by hand, with all it held. One step through the locator; `tidy` tells when there is something to find. How often
-- such a job was delivered nobody knows any more: it counts as once.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  stats         hash    counters
-- KEYS[6]  control       channel notifications
--
-- ARGV[1]  cursor        where to go on, as the last step said; 0 to begin
-- ARGV[2]  count         int     about how many locators to look at
--
-- Returns  {cursor, count}: where to go on, 0 at the end; and how many jobs were handed back

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/count"
--- @include "include/tell"

local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, stats, control = KEYS[4], KEYS[5], KEYS[6]
local cursor, step = ARGV[1], ARGV[2]

expect('stream', KEYS[1], KEYS[2], KEYS[3])
expect('hash', jobs)

local last_delivered = {}
for place, stream in pairs(places) do
  for _, group in ipairs(leases(stream) and redis.call('XINFO', 'GROUPS', stream) or {}) do
    if field(group, 'name') == 'workers' then last_delivered[place] = field(group, 'last-delivered-id') end
  end
end

-- Whether an entry id is at most another one: their numbers are too large to be counted with here.
local function is_up_to(entry, last)
  local ms, number = string.match(entry, '^(%d+)-(%d+)$')
  local last_ms, last_number = string.match(last, '^(%d+)-(%d+)$')
  if ms == last_ms then ms, last_ms = number, last_number end
  if #ms ~= #last_ms then return #ms < #last_ms end
  return ms <= last_ms
end

local total = 0
local found = redis.call('HSCAN', jobs, cursor, 'COUNT', step)
for i = 2, #found[2], 2 do
  local place, entry = string.match(found[2][i], '^(ready:%l+) (%d+%-%d+)')
  local stream, last = places[place], last_delivered[place]
  if last and is_up_to(entry, last) and #leases(stream, entry, entry, 1) == 0 and entry_at(stream, entry) then
    redis.call('XCLAIM', stream, 'workers', 'released', 0, entry, 'RETRYCOUNT', 1, 'FORCE', 'JUSTID')
    total = total + 1
  end
end
if total > 0 then
  count(stats, 'reclaimed', total)
  tell(control, 'released ' .. total)
end
return {found[1], total}
