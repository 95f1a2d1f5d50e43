-- alive: a worker's lease in ms; nil if the worker has no record, or was fenced. A record of another type is an
-- error.
--- @include checked
local function alive(worker)
  local record = KEYS['worker:'] .. worker
  return tonumber(checked('hash', record, redis.pcall('HGET', record, 'lease_ms')) or nil)
end
