-- enqueue: make a job ready: its entry in a stream, and its locator. If that stream has no entry ids left, the lowest
-- priority that has any takes the job. A caller that adds many passes a list, `located`: it gets ids and places, for
-- one HSET.
--
-- Returns the entry and the stream; nil where no stream has entry ids left: then nothing was written
--- @include streams note_large bytes_of
local function enqueue(number, job, fields, located)
  local stream = streams[number]
  local entry = redis.pcall('XADD', stream, '*', unpack(fields))
  for other = #streams, 1, -1 do
    if type(entry) == 'string' then break end
    if not string.find(entry.err, 'exhausted', 1, true) then return error(entry) end
    stream = streams[other]
    entry = redis.pcall('XADD', stream, '*', unpack(fields))
  end
  if type(entry) ~= 'string' then return nil end
  local place = string.match(stream, '[^:]+$') .. ' ' .. entry
  if located then
    located[#located + 1], located[#located + 2] = job, place
  else
    redis.call('HSET', KEYS.jobs, job, place)
  end
  note_large(stream, entry, bytes_of(fields))
  return entry, stream
end
