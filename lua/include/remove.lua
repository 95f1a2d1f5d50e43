-- remove: end the leases of entries, and delete the entries, with what is noted of them. It is no error if an entry has no
-- lease, or the stream no group.
local function remove(stream, ...)
  redis.call('XACK', stream, 'workers', ...)
  redis.call('XDEL', stream, ...)
  if redis.call('TYPE', KEYS.history).ok == 'hash' then
    local places = {...}
    for i, entry in ipairs(places) do places[i] = string.match(stream, '[^:]+$') .. ' ' .. entry end
    redis.pcall('HDEL', KEYS.history, unpack(places))
  end
end
