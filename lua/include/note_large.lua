-- note_large: note of a job that was added to a stream that it is large, if so, until it was read: a read says how many jobs it
-- wants, and knows nothing of their sizes. What has less than 16 KB is not large. The note has the last such entry, how
-- many bytes the largest has, and how many all of them. A hint only: what can't be noted, by somebody's hand, costs nobody
-- a job.
local function note_large(large, stream, entry, bytes)
  if bytes < 16384 then return end
  local place = string.match(stream, '[^:]+$')
  local noted = redis.pcall('HGET', large, place)
  local most, total = string.match(type(noted) == 'string' and noted or '', ' (%d+) (%d+)$')
  most, total = math.max(bytes, tonumber(most or 0)), bytes + tonumber(total or 0)
  redis.pcall('HSET', large, place, string.format('%s %.0f %.0f', entry, most, total))
end
