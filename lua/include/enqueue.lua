-- enqueue: make a job ready: write its entry and its locator. A caller that adds many jobs passes a list,
-- `located`, which receives ids and places for one HSET. Returns the entry and the stream.
--- @include stream_of note_large bytes_of
local function enqueue(priority, job, fields, located)
  local stream = stream_of[priority]
  local entry = redis.call('XADD', stream, '*', unpack(fields))
  local place = priority .. ' ' .. entry
  if located then
    located[#located + 1], located[#located + 2] = job, place
  else
    redis.call('HSET', KEYS.jobs, job, place)
  end
  note_large(stream, entry, bytes_of(fields))
  return entry, stream
end
