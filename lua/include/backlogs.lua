-- backlogs: since when the oldest ready jobs have been ready, as a flat list of priorities and times. A time is an
-- entry id, or the due time (ms) of a job that is not promoted yet. A priority without waiting jobs is left out;
-- it may come several times.
--- @include group field streams leases parted unpacked
local function backlogs(now_ms)
  local priorities, since = {'high', 'normal', 'low'}, {}

  local function add(priority, value)
    since[#since + 1], since[#since + 2] = priority, value
  end

  -- The oldest unread entry.
  local function oldest_unread(stream)
    local ours = group(stream)
    local start = ours and '(' .. field(ours, 'last-delivered-id') or '-'
    local unread = redis.pcall('XRANGE', stream, start, '+', 'COUNT', 1)
    if unread.err and not string.find(unread.err, 'invalid start ID', 1, true) then return error(unread) end
    return not unread.err and unread[1] and unread[1][1]
  end

  for number, stream in ipairs(streams) do
    for _, consumer in ipairs({'released', 'alone'}) do -- the oldest job that was handed back
      local back = (leases(stream, '-', '+', 1, consumer) or {})[1]
      if back then add(priorities[number], back[1]) end
    end
    local unread = oldest_unread(stream)
    if unread then add(priorities[number], unread) end
  end

  local first = redis.call('ZRANGE', KEYS.due, 0, 0, 'WITHSCORES')
  if first[1] and tonumber(first[2]) <= now_ms then
    local _, job = parted(first[1])
    local packed = redis.call('HGET', KEYS.delayed, job)
    local _, priority = unpacked(packed or '')
    if priority then add(priority, first[2]) end
  end
  return since
end
