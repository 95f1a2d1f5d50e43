-- note_large: note that a job of 16 KB or more was added to a stream, until it is read: a read asks for a number of jobs
-- without knowing their sizes. The note is the last such entry, the bytes of the largest, and of all. It never fails.
local function note_large(stream, entry, bytes)
  if bytes < 16384 then return end
  local place = string.match(stream, '[^:]+$')
  local noted = redis.pcall('HGET', KEYS.large, place)
  local most, total = string.match(type(noted) == 'string' and noted or '', ' (%d+) (%d+)$')
  most, total = math.max(bytes, tonumber(most or 0)), bytes + tonumber(total or 0)
  redis.pcall('HSET', KEYS.large, place, string.format('%s %.0f %.0f', entry, most, total))
end
