-- remove: end the leases of entries, and delete the entries with their noted history. It is no error if an entry
-- has no lease, or is gone, or the stream has no group.
local function remove(stream, ...)
  redis.call('XACK', stream, 'workers', ...)
  redis.call('XDEL', stream, ...)
  local priority = string.match(stream, '}:ready:(.+)$') -- only the entries of ready jobs have a history there
  if not priority or redis.call('TYPE', KEYS.history).ok ~= 'hash' then return end
  local places = {...}
  for i, entry in ipairs(places) do places[i] = priority .. ' ' .. entry end
  redis.pcall('HDEL', KEYS.history, unpack(places))
end
