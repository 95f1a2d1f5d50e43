-- ahead: what a claim would find: whether any job was handed back, and for each stream how many were never delivered. The
-- server loses count where an entry was deleted that it had not delivered yet; where there are any, they are then said to
-- be as many as it has entries. Needs leases, any_back, field, group beside it.
local function ahead(streams)
  local released, unread = 0, {0, 0, 0}
  for number, stream in ipairs(streams) do
    local length = redis.call('XLEN', stream)
    if length > 0 then
      if released == 0 and any_back(stream) then released = 1 end
      unread[number] = length
      local ours = group(stream)
      if ours then
        local next_one = '(' .. field(ours, 'last-delivered-id')
        unread[number] = field(ours, 'lag') or redis.pcall('XRANGE', stream, next_one, '+', 'COUNT', 1)[1] and length or 0
      end
    end
  end
  return released, unread
end
