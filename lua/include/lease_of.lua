-- lease_of: another worker's lease in ms. If its record is gone or of another type, the usual lease, so that this
-- blocks no other worker.
local function lease_of(worker)
  -- One command, because a call may ask about thousands of workers.
  local lease_ms = redis.pcall('HGET', KEYS['worker:'] .. worker, 'lease_ms')
  if type(lease_ms) == 'table' and not string.find(lease_ms.err, 'WRONGTYPE', 1, true) then
    return error(lease_ms)
  end
  return type(lease_ms) == 'string' and tonumber(lease_ms) or 15000
end
