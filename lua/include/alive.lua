-- alive: the lease, in ms, of the worker that a record is about; nil: there is no such worker, or it was fenced. A record
-- that somebody made something else by hand ends the script, and is named. Needs expect beside it.
local function alive(record)
  local lease_ms = redis.pcall('HGET', record, 'lease_ms')
  if type(lease_ms) == 'table' then
    expect('hash', record)
    return error(lease_ms)
  end
  return tonumber(lease_ms or nil)
end
