#!lua flags=allow-oom
-- adopt: give an id and a locator to jobs whose entries have no id.
--
-- ARGV[1..] for each job: stream 1..3, entry
--
-- Returns  for each job its id: the entry id, as 1732-0; if another job has that, entry and stream, as 1732-0@low

--- @include expect streams entry_at identify stream_of

local first_job = 1

expect('stream', unpack(streams))
expect('hash', KEYS.jobs)

local ids = {}
for at = first_job, #ARGV, 2 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local fields, id, mark = entry_at(stream, entry), entry, nil
  if fields then
    local place = string.match(stream, '[^:]+$')
    id, mark = identify(stream_of, place, entry, fields)
    if not mark then redis.call('HSET', KEYS.jobs, id, place .. ' ' .. entry) end
  end
  ids[#ids + 1] = id
end
return ids
