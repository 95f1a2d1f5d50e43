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
-- KEYS[6]  limits        hash    job name -> its limit, in words
-- KEYS[7]  shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[8]  holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[9]  rate:         string  prefix; rate:<name> <key> has the theoretical arrival time of its next job, µs
-- KEYS[10] turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[11] lines         zset    names and keys that have a waiting line, in alphabetical order
--
-- ARGV[1]  number        1..3: the stream to look at; 1 to begin
-- ARGV[2]  from          where in it to go on, as the last step said; - to begin
-- ARGV[3]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
-- ARGV[4]  now_ms        int ms; '' = the server's clock
--
-- Returns  {number, from, count}: where to go on, number 0 at the end; and how many jobs were handed back

--- @include "include/now"
--- @include "include/whole"
--- @include "include/page"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/group"
--- @include "include/count"
--- @include "include/tell"
--- @include "include/hand_back"
--- @include "include/limit_of"
--- @include "include/give_up"

local streams, stats, control = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local number, from, most_bytes, now_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), now(ARGV[4])
local keys = {limits = KEYS[6], shares = KEYS[7], holders = KEYS[8], rate = KEYS[9], turns = KEYS[10], lines = KEYS[11]}

expect('stream', streams[1], streams[2], streams[3])
expect('hash', keys.limits, keys.shares)
expect('zset', keys.turns, keys.lines)

local last_delivered = {}
for i, stream in ipairs(streams) do
  local ours = group(stream)
  last_delivered[i] = ours and field(ours, 'last-delivered-id')
end

local total, looked, bytes = 0, 0, 0
while streams[number] and looked < 500 and bytes < most_bytes do
  local stream, last = streams[number], last_delivered[number]
  local many = math.max(1, page(looked, bytes)) -- they may be large
  local found = last and redis.call('XRANGE', stream, from, last, 'COUNT', many) or {}
  for _, entry in ipairs(found) do
    if #leases(stream, entry[1], entry[1], 1) == 0 then
      hand_back(stream, 0, {entry[1]})
      give_up(keys, {string.match(stream, '[^:]+$') .. ' ' .. entry[1]}, now_ms)
      total = total + 1
    end
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
  looked = looked + #found
  if #found < many or found[many][1] == last then
    number, from = number + 1, '-'
  else
    from = '(' .. found[many][1]
  end
end
if total > 0 then
  count(stats, 'reclaimed', total)
  tell(control, 'released ' .. total)
end
return {streams[number] and number or 0, from, total}
