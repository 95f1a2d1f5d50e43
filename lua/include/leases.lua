-- leases: what XPENDING tells of a stream's leases (the arguments are what follows the group); nil where the
-- stream has no group: nothing is leased there. Asked so, a script never stops half-way for want of a group, nor where
-- it asks for what comes after the largest entry id there is: that is nothing.
local function leases(stream, ...)
  local pending = redis.pcall('XPENDING', stream, 'workers', ...)
  if not pending.err then return pending end
  if string.find(pending.err, 'NOGROUP', 1, true) then return nil end
  if string.find(pending.err, 'invalid start ID', 1, true) then return {} end
  return error(pending)
end
