-- ahead: what a claim would find. Returns the first stream with jobs that were handed back, or 0; then for each stream
-- how many jobs were never delivered; then for each how many of those one read may fetch (0: any number). A read may
-- fetch 16 MB, which takes Redis some 10 ms, if all were as large as the largest in `large`. Redis loses count of the
-- unread where an unread entry was deleted; then the answer is the length of the stream.
--- @include streams any_back group field
local function ahead()
  local released, unread, most_bytes = 0, {0, 0, 0, 0, 0, 0}, 16777216
  local noted = redis.pcall('HMGET', KEYS.large, 'high', 'normal', 'low')

  -- A note goes when its last job was delivered, or is gone.
  local function look_at(note, number, last)
    local ms, sequence, bytes, total = string.match(note, '^(%d+)-(%d+) (%d+) (%d+)$')
    local last_ms, last_sequence = string.match(last or '', '^(%d+)-(%d+)$')
    ms, last_ms = tonumber(ms), tonumber(last_ms)
    if not ms or not last_ms or ms < last_ms or ms == last_ms and tonumber(sequence) <= tonumber(last_sequence) then
      redis.call('HDEL', KEYS.large, string.match(streams[number], '[^:]+$'))
    elseif tonumber(total) > most_bytes then
      unread[3 + number] = math.max(1, math.floor(most_bytes / tonumber(bytes)))
    end
  end

  for number, stream in ipairs(streams) do
    local length, last = redis.call('XLEN', stream), nil
    if length > 0 then
      if released == 0 and any_back(stream) then released = number end
      unread[number] = length
      local ours = group(stream)
      last = ours and field(ours, 'last-delivered-id') or '0-0'
      if ours then
        local next_one = '(' .. last
        unread[number] = field(ours, 'lag') or redis.pcall('XRANGE', stream, next_one, '+', 'COUNT', 1)[1] and length or 0
      end
    end
    if noted[number] then look_at(noted[number], number, last) end
  end
  return released, unread
end
