-- note_large: note that a stream has an unread job of 16 KB or more, because a read asks for jobs without knowing
-- their sizes. The note has the last such entry, the bytes of the largest, and the bytes of all. It never fails.
local function note_large(stream, entry, bytes)
  if bytes < 16384 then return end
  local place = string.match(stream, '[^:]+$')
  local noted = redis.pcall('HGET', KEYS.large, place)
  local most, total = string.match(type(noted) == 'string' and noted or '', ' (%d+) (%d+)$')
  most, total = math.max(bytes, tonumber(most or 0)), bytes + tonumber(total or 0)
  redis.pcall('HSET', KEYS.large, place, string.format('%s %.0f %.0f', entry, most, total))
end
