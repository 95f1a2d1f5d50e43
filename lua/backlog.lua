#!lua flags=no-writes,allow-oom
-- backlog: since when the oldest ready job of each priority has been ready, and how many workers there are. Writes nothing.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[5]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[6]  workers       zset    worker ids by the end of their lease, ms
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
--
-- Returns  {now ms, workers, {priority, since, priority, since, ...}}: since is an entry's id, or a due time in ms: what
--          is due and was not promoted yet is as good as ready. A priority that nothing waits in is left out, one may
--          come several times

--- @include "include/now"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/group"
--- @include "include/parted"
--- @include "include/unpacked"

local streams, due, delayed, workers = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5], KEYS[6]
local priorities, now_ms = {'high', 'normal', 'low'}, now(ARGV[1])
local since = {}

local function add(priority, value)
  since[#since + 1], since[#since + 2] = priority, value
end

-- The oldest that nobody has read.
local function oldest_unread(stream)
  local ours = group(stream)
  local start = ours and '(' .. field(ours, 'last-delivered-id') or '-'
  local unread = redis.pcall('XRANGE', stream, start, '+', 'COUNT', 1)
  if unread.err and not string.find(unread.err, 'invalid start ID', 1, true) then return error(unread) end
  return not unread.err and unread[1] and unread[1][1]
end

for number, stream in ipairs(streams) do
  for _, consumer in ipairs({'released', 'alone'}) do -- the oldest that was handed back
    local back = (leases(stream, '-', '+', 1, consumer) or {})[1]
    if back then add(priorities[number], back[1]) end
  end
  local unread = oldest_unread(stream)
  if unread then add(priorities[number], unread) end
end

local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if first[1] and tonumber(first[2]) <= now_ms then
  local _, job = parted(first[1])
  local packed = redis.call('HGET', delayed, job)
  local _, priority = unpacked(packed or '')
  if priority then add(priority, first[2]) end
end

local alive = redis.call('ZCOUNT', workers, string.format('(%.0f', now_ms), '+inf')
return {string.format('%.0f', now_ms), alive, since}
