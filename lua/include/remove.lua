-- remove: take entries out of a stream, and out of the hands of whoever holds them. One that nobody holds has no lease to
-- give up: that is no error, nor is a stream without a group.
local function remove(stream, ...)
  redis.call('XACK', stream, 'workers', ...)
  redis.call('XDEL', stream, ...)
end
