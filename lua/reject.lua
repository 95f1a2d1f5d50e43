#!lua flags=allow-oom
-- reject: make dead letters of entries that a worker has read from the ready streams, but no push has added.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2..] for each entry: stream 1..3, entry
-- Returns  for each entry the id of its dead letter; '' if the entry is gone

--- @include now expect streams entry_at reject
local now_ms = now(ARGV[1])
local first_entry = 2

expect('stream', KEYS.dead, unpack(streams))
expect('hash', KEYS.jobs)

local ids = {}
for at = first_entry, #ARGV, 2 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local fields = entry_at(stream, entry)
  ids[#ids + 1] = fields and reject(stream, entry, fields, 'no job: its entry has no id', now_ms) or ''
end
return ids
