-- remove: end the leases of entries, and take them out of their stream. One that nobody holds has no lease: that is no
-- error, nor is a stream without a group, as that of the dead letters is.
local function remove(stream, ...)
  redis.call('XACK', stream, 'workers', ...)
  redis.call('XDEL', stream, ...)
end
