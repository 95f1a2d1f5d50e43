-- new_group: create the group of a stream. It begins at 0: `$` would skip jobs that were pushed before the first
-- worker joined. If the group was lost, jobs may have run, and the next reads deliver them again. Unlike claim, a
-- read can't tell which of them have saved steps. So the oldest jobs, up to the last with saved steps, are handed
-- back. It looks at 500 jobs at most, and about 1 MB.
--- @include field bytes_of hand_back
local function new_group(stream)
  local entries, last, bytes, from = {}, 0, 0, '-'
  while #entries < 500 and bytes < 1048576 do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', 20)
    for _, one in ipairs(page) do
      entries[#entries + 1], bytes, from = one[1], bytes + bytes_of(one[2]), '(' .. one[1]
      if redis.call('EXISTS', KEYS['steps:'] .. (field(one[2], 'id') or '')) == 1 then last = #entries end
    end
    if #page < 20 then break end
  end
  redis.call('XGROUP', 'CREATE', stream, 'workers', entries[last] or '0', 'MKSTREAM')
  if last > 0 then hand_back(stream, 0, {unpack(entries, 1, last)}) end
end
