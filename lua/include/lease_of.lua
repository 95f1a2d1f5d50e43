-- lease_of: the lease, in ms, of another worker. One whose record is gone, or was made something else by hand, is in
-- nobody's way: it is taken to have had the usual one.
local function lease_of(record)
  local lease_ms = redis.call('TYPE', record).ok == 'hash' and redis.call('HGET', record, 'lease_ms')
  return tonumber(lease_ms or nil) or 15000
end
