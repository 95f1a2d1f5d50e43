#!lua flags=allow-oom
-- unpark: hand back parked jobs that may start now, in their place. One step through the parked jobs.
--
-- ARGV[1]  note          the note in `layout` when the first step began; '' to begin
-- ARGV[2]  number        1..3: the stream to look at
-- ARGV[3]  from          where to go on in that stream, as the last step said; - to begin
-- ARGV[4]  most_bytes    int     about how many bytes of entries to look at; never more than 500 entries
-- Returns  {note, number, from}: the arguments of the next step; number 0 at the end

--- @include expect streams entry_at hand_back bytes_of field may_not_start leases walk tell
local note, number, from, most_bytes = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

expect('stream', unpack(streams))
expect('hash', KEYS.jobs, KEYS['paused:names'], KEYS.held, KEYS.layout)
-- `-` if the walk began without a note: a note that comes meanwhile is not for this walk.
if note == '' then note = redis.call('HGET', KEYS.layout, 'unpark') or '-' end

local function read(stream, start, many)
  return leases(stream, start, '+', many, 'parked') or {}
end

local total = 0
local function look_at(stream, pending)
  local entry, deliveries = pending[1], pending[4]
  local fields = entry_at(stream, entry) -- nil: deleted while it was parked
  if fields and may_not_start(field(fields, 'id') or '', fields) then return bytes_of(fields) end
  hand_back(stream, deliveries, {entry})
  if fields then total = total + 1 end
  return bytes_of(fields or {})
end

number, from = walk(number, from, most_bytes, read, look_at)
if total > 0 then tell('released ' .. total) end
if number == 0 and redis.call('HGET', KEYS.layout, 'unpark') == note then
  redis.call('HDEL', KEYS.layout, 'unpark')
end
return {note, number, from}
