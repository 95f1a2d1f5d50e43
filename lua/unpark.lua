#!lua flags=allow-oom
-- unpark: hand back parked jobs that may start now, in their place. One step through what is parked.
--
-- ARGV[1]  note          of `layout` when the first step began; '' to begin
-- ARGV[2]  number        1..3: the stream to look at
-- ARGV[3]  from          where in it to go on, as the last step said; - to begin
-- ARGV[4]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
--
-- Returns  {note, number, from}: what the next step takes; number 0 at the end

--- @include expect streams entry_at hand_back bytes_of field may_not_start page leases tell

local note, number, from, most_bytes = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

expect('stream', unpack(streams))
expect('hash', KEYS.jobs, KEYS['paused:names'], KEYS.held, KEYS.layout)
-- `-` if the walk began without a note: one that comes meanwhile is not its own.
if note == '' then note = redis.call('HGET', KEYS.layout, 'unpark') or '-' end

local total, looked, bytes = 0, 0, 0
local function look_at(stream, entry, deliveries)
  local fields = entry_at(stream, entry)
  if not fields then -- deleted while it was parked
    hand_back(stream, deliveries, {entry})
    return
  end
  bytes = bytes + bytes_of(fields)
  if may_not_start(field(fields, 'id') or '', fields) then return end
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
if total > 0 then tell('released ' .. total) end
if not streams[number] then
  if redis.call('HGET', KEYS.layout, 'unpark') == note then redis.call('HDEL', KEYS.layout, 'unpark') end
  number = 0
end
return {note, number, from}
