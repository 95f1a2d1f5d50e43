-- enqueue: make a job ready: its entry in a stream, and its locator. Where somebody has used up that stream's ids, by hand
-- with the largest there is, the lowest priority that has any takes it. `keys` has streams, jobs, large. A caller that adds
-- many passes a list, `located`: ids and places are put there, and the caller writes them in one HSET. Needs bytes_of,
-- note_large beside it.
--
-- Returns its entry, and the stream; nil where no stream has entry ids left: then nothing was written
local function enqueue(keys, number, job, fields, located)
  local stream = keys.streams[number]
  local entry = redis.pcall('XADD', stream, '*', unpack(fields))
  for other = #keys.streams, 1, -1 do
    if type(entry) == 'string' then break end
    if not string.find(entry.err, 'exhausted', 1, true) then return error(entry) end
    stream = keys.streams[other]
    entry = redis.pcall('XADD', stream, '*', unpack(fields))
  end
  if type(entry) ~= 'string' then return nil end
  local place = string.match(stream, '[^:]+$') .. ' ' .. entry
  if located then
    located[#located + 1], located[#located + 2] = job, place
  else
    redis.call('HSET', keys.jobs, job, place)
  end
  note_large(keys.large, stream, entry, bytes_of(fields))
  return entry, stream
end
