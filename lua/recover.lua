#!lua flags=allow-oom
-- recover: return jobs that a worker holds without knowing. It lost the reply that delivered them, or had given up
-- the read. The worker still owns these jobs, so it can run them, and their delivery count stays.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  most_bytes    int     stop once the jobs have this many bytes
-- ARGV[3]  idle_ms       int ms  return only jobs that were delivered at least this long ago
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- ARGV[5..] entries of its pending list, as `1 1732-0`: stream 1..3, entry; up to 100
-- Returns  {looked, jobs}: the number of entries it looked at (call again with the others); for each job that the
--          worker still holds {stream 1..3, entry, deliveries, {name, value, ...}}. Or one word:
--          FENCED  the worker's record is gone; nothing was written

--- @include now expect streams alive leases entry_at bytes_of remove give_up field with_steps
local worker, most_bytes, idle_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now_ms = now(ARGV[4])
local first_entry = 5

expect('stream', unpack(streams))
expect('hash', KEYS.limits, KEYS.shares)
expect('zset', KEYS.turns, KEYS.lines)
if not alive(worker) then return 'FENCED' end

local found, bytes = {}, 0
for at = first_entry, #ARGV do
  if bytes >= most_bytes then return {at - first_entry, found} end
  local number, entry = string.match(ARGV[at], '^(%d) (.+)$')
  local stream = streams[tonumber(number)]
  local pending = (leases(stream, 'IDLE', idle_ms, entry, entry, 1, worker) or {})[1]
  local fields = pending and entry_at(stream, entry)
  if fields then
    found[#found + 1] = {tonumber(number), entry, pending[4], with_steps(field(fields, 'id') or '', fields)}
    bytes = bytes + bytes_of(fields)
  elseif pending then -- deleted while it was leased
    remove(stream, entry)
    give_up({string.match(stream, '[^:]+$') .. ' ' .. entry}, now_ms)
  end
end
return {#ARGV - first_entry + 1, found}
