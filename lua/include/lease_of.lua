-- lease_of: the lease, in ms, of another worker. One whose record is gone, or was made something else by hand, is in
-- nobody's way: it is taken to have had the usual one.
local function lease_of(record)
  local lease_ms = redis.pcall('HGET', record, 'lease_ms') -- one command: it is asked about thousands
  if type(lease_ms) == 'table' and not string.find(lease_ms.err, 'WRONGTYPE', 1, true) then return error(lease_ms) end
  return type(lease_ms) == 'string' and tonumber(lease_ms) or 15000
end
