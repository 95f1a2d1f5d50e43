-- prospect: what a claim would find, as a sum:
--   1         jobs were handed back, or the inbox has entries
--   32 or 64  the first of them are in the second or third stream
--   2         some jobs may not start
--   4         alone: the queue is paused
-- Then the number of never delivered jobs of each stream, or its length if Redis has lost count. Then for each
-- stream the number of those that one read may fetch (0: any number): 16 MB if all were as large as the largest,
-- which takes Redis about 10 ms.
--- @include streams any_back group field
local function prospect(restricted)
  local finds, unread, most_bytes = restricted and 2 or 0, {0, 0, 0, 0, 0, 0}, 16777216
  if restricted and restricted.all then return 4, unread end
  local noted = redis.pcall('HMGET', KEYS.large, 'high', 'normal', 'low')

  -- Delete a note when its last job was delivered, or is gone.
  local function look_at(note, number, last)
    local ms, sequence, bytes, total = string.match(note, '^(%d+)-(%d+) (%d+) (%d+)$')
    local last_ms, last_sequence = string.match(last or '', '^(%d+)-(%d+)$')
    ms, last_ms = tonumber(ms), tonumber(last_ms)
    if not ms or not last_ms or ms < last_ms or ms == last_ms
      and tonumber(sequence) <= tonumber(last_sequence) then
      redis.call('HDEL', KEYS.large, string.match(streams[number], '[^:]+$'))
    elseif tonumber(total) > most_bytes then
      unread[3 + number] = math.max(1, math.floor(most_bytes / tonumber(bytes)))
    end
  end

  local released = redis.pcall('XLEN', KEYS.inbox) ~= 0 and 1 or 0
  for number, stream in ipairs(streams) do
    local length, last = redis.call('XLEN', stream), nil
    if length > 0 then
      if released == 0 and any_back(stream) then released = number end
      local ours = group(stream)
      last = ours and field(ours, 'last-delivered-id') or '0-0'
      unread[number] = length
      if ours then
        unread[number] = field(ours, 'lag') or redis.pcall('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
          and length or 0
      end
    end
    if noted[number] then look_at(noted[number], number, last) end
  end
  if released > 0 then finds = finds + 1 + 32 * (released - 1) end
  return finds, unread
end
