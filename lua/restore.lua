#!lua flags=allow-oom
-- restore: hand back jobs that are neither pending nor unread: their consumer was deleted outside redisjobs with all it
-- held, or the group was moved on. One step through what the streams have delivered; tidy says when to look. Their
-- delivery count is lost: it starts at 0.
--
-- ARGV[1]  number        1..3: the stream to look at; 1 to begin
-- ARGV[2]  from          where in it to go on, as the last step said; - to begin
-- ARGV[3]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
-- ARGV[4]  now_ms        int ms; '' = the server's clock
--
-- Returns  {number, from, count}: where to go on, number 0 at the end; and how many jobs were handed back

--- @include now expect streams group field page leases hand_back give_up count tell

local number, from, most_bytes, now_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), now(ARGV[4])

expect('stream', unpack(streams))
expect('hash', KEYS.limits, KEYS.shares)
expect('zset', KEYS.turns, KEYS.lines)

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
      give_up({string.match(stream, '[^:]+$') .. ' ' .. entry[1]}, now_ms)
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
  count('reclaimed', total)
  tell('released ' .. total)
end
return {streams[number] and number or 0, from, total}
