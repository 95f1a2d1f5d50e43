-- leases: XPENDING of a stream's group, with these arguments after the group. nil if there is no group, so that a
-- missing group stops no script half-way. {} after the largest entry id.
local function leases(stream, ...)
  local pending = redis.pcall('XPENDING', stream, 'workers', ...)
  if not pending.err then return pending end
  if string.find(pending.err, 'NOGROUP', 1, true) then return nil end
  if string.find(pending.err, 'invalid start ID', 1, true) then return {} end
  return error(pending)
end
