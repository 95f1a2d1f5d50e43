-- remove: end the leases of entries, and delete the entries. It is no error if an entry has no lease, or the stream no group.
local function remove(stream, ...)
  redis.call('XACK', stream, 'workers', ...)
  redis.call('XDEL', stream, ...)
end
