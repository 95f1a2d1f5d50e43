#!lua flags=allow-oom
-- restore: hand back jobs that are neither pending nor unread. Their consumer was deleted outside redisjobs, or
-- the group was moved forward. This is one step through the delivered entries. Their delivery count is lost: it
-- starts at 0.
--
-- ARGV[1]  number        1..3: the stream to look at; 1 to begin
-- ARGV[2]  from          where to go on in that stream, as the last step said; - to begin
-- ARGV[3]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- Returns  {number, from, count}: where to go on, number 0 at the end; and how many jobs were handed back

--- @include now expect streams group field leases hand_back give_up bytes_of walk count tell note_event event
local number, from, most_bytes, now_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), now(ARGV[4])

expect('stream', unpack(streams))
expect('hash', KEYS.limits, KEYS.shares)
expect('zset', KEYS.turns, KEYS.lines)

local last_delivered = {}
for _, stream in ipairs(streams) do
  local ours = group(stream)
  last_delivered[stream] = ours and field(ours, 'last-delivered-id')
end

local function read(stream, start, many)
  local last = last_delivered[stream]
  return last and redis.pcall('XRANGE', stream, start, last, 'COUNT', many) or {}
end

local total = 0
local function look_at(stream, entry)
  if #leases(stream, entry[1], entry[1], 1) == 0 then
    hand_back(stream, 0, {entry[1]})
    local places = {string.match(stream, '[^:]+$') .. ' ' .. entry[1]}
    note_event(places, event(now_ms, 'worker-lost'))
    give_up(places, now_ms)
    total = total + 1
  end
  return bytes_of(entry[2])
end

number, from = walk(number, from, most_bytes, read, look_at)
if total > 0 then
  count('reclaimed', total)
  tell('released ' .. total)
end
return {number, from, total}
