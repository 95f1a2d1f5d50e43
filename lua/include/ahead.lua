-- ahead: what a claim would find: the first stream with a job that was handed back, or 0; for each stream how many jobs were
-- never delivered; then for each how many of these one read may bring, were all of them as large as the largest that note_large knows of: as many
-- as have 16 MB, which takes a server some 10 ms; 0: any number. The server loses count where an entry was deleted that it had not
-- delivered yet; where there are any, they are then said to be as many as it has entries. Needs leases, any_back,
-- field, group beside it.
local function ahead(streams, large)
  local released, unread, most_bytes = 0, {0, 0, 0, 0, 0, 0}, 16777216
  local noted = redis.pcall('HMGET', large, 'high', 'normal', 'low')

  -- A note goes when the last of those that it is about was delivered, or is not there any more.
  local function look_at(note, number, last)
    local ms, sequence, bytes, total = string.match(note, '^(%d+)-(%d+) (%d+) (%d+)$')
    local last_ms, last_sequence = string.match(last or '', '^(%d+)-(%d+)$')
    ms, last_ms = tonumber(ms), tonumber(last_ms)
    if not ms or not last_ms or ms < last_ms or ms == last_ms and tonumber(sequence) <= tonumber(last_sequence) then
      redis.call('HDEL', large, string.match(streams[number], '[^:]+$'))
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
