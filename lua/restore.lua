#!lua flags=allow-oom
-- restore: hand back jobs that are neither pending nor still to be read. Somebody has removed their consumer by hand, with
-- all that it had pending, or has moved the group on. One step through what the streams have delivered; `tidy` says when
-- there may be something to find. How often such a job was delivered nobody knows any more: it counts as never.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  stats         hash    counters
-- KEYS[5]  control       channel notifications
--
-- ARGV[1]  number        1..3: the stream to look at; 1 to begin
-- ARGV[2]  from          where in it to go on, as the last step said; - to begin
-- ARGV[3]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
--
-- Returns  {number, from, count}: where to go on, number 0 at the end; and how many jobs were handed back

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/group"
--- @include "include/count"
--- @include "include/tell"
--- @include "include/hand_back"

local streams, stats, control = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local number, from, most_bytes = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

expect('stream', streams[1], streams[2], streams[3])

local last_delivered = {}
for i, stream in ipairs(streams) do
  local ours = group(stream)
  last_delivered[i] = ours and field(ours, 'last-delivered-id')
end

local total, looked, bytes = 0, 0, 0
while streams[number] and looked < 500 and bytes < most_bytes do
  local stream, last = streams[number], last_delivered[number]
  local page = last and redis.call('XRANGE', stream, from, last, 'COUNT', 10) or {} -- few: they may be large
  for _, entry in ipairs(page) do
    if #leases(stream, entry[1], entry[1], 1) == 0 then
      hand_back(stream, 0, {entry[1]})
      total = total + 1
    end
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
  looked = looked + #page
  if #page < 10 or page[10][1] == last then
    number, from = number + 1, '-'
  else
    from = '(' .. page[10][1]
  end
end
if total > 0 then
  count(stats, 'reclaimed', total)
  tell(control, 'released ' .. total)
end
return {streams[number] and number or 0, from, total}
