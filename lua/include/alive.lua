-- alive: a worker's lease in ms; nil if it has no record, or was fenced. A record of another type is an error.
--- @include expect
local function alive(worker)
  local record = KEYS['worker:'] .. worker
  local lease_ms = redis.pcall('HGET', record, 'lease_ms')
  if type(lease_ms) == 'table' then
    expect('hash', record)
    return error(lease_ms)
  end
  return tonumber(lease_ms or nil)
end
