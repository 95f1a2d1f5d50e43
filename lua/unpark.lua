#!lua flags=allow-oom
-- unpark: hand parked jobs back that may start now, in their place. One step through what is parked.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  paused:names  hash    job names that are paused -> since when, ms
-- KEYS[6]  held          hash    ids of jobs that are held -> since when, ms
-- KEYS[7]  layout        hash    `unpark`: jobs may be parked that may start, since when
-- KEYS[8]  control       channel notifications
--
-- ARGV[1]  note          of `layout` when the first step began; '' to begin
-- ARGV[2]  number        1..3: the stream to look at
-- ARGV[3]  from          where in it to go on, as the last step said; - to begin
-- ARGV[4]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
--
-- Returns  {note, number, from}: what the next step takes; number 0 at the end

--- @include "include/page"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/bytes_of"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/unlocate"
--- @include "include/may_not_start"
--- @include "include/hand_back"
--- @include "include/tell"

local streams, jobs, names, held = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5], KEYS[6]
local layout, control = KEYS[7], KEYS[8]
local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local note, number, from, most_bytes = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs, names, held, layout)
-- Of a walk that began without a note it is `-`: one that comes meanwhile is not its own.
if note == '' then note = redis.call('HGET', layout, 'unpark') or '-' end

local total, looked, bytes = 0, 0, 0
local function look_at(stream, entry, deliveries)
  local fields = entry_at(stream, entry)
  if not fields then -- removed by hand while it was parked
    hand_back(stream, deliveries, {entry})
    unlocate(jobs, stream, entry)
    return
  end
  bytes = bytes + bytes_of(fields)
  local id = identify(places, jobs, string.match(stream, '[^:]+$'), entry, fields)
  if may_not_start(names, held, id, fields) then return end
  hand_back(stream, deliveries, {entry})
  total = total + 1
end

while streams[number] and looked < 500 and bytes < most_bytes do
  local stream = streams[number]
  local many = math.max(1, page(looked, bytes)) -- they may be large
  local found = leases(stream, from, '+', many, 'parked') or {}
  for _, pending in ipairs(found) do look_at(stream, pending[1], pending[4]) end
  looked = looked + #found
  if #found < many then
    number, from = number + 1, '-'
  else
    from = '(' .. found[many][1]
  end
end
if total > 0 then tell(control, 'released ' .. total) end
if not streams[number] then
  if redis.call('HGET', layout, 'unpark') == note then redis.call('HDEL', layout, 'unpark') end
  number = 0
end
return {note, number, from}
