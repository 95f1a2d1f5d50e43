-- holder: the consumer that holds an entry, its delivery count, and for how many ms; nil: no consumer, or no group
-- yet.
--- @include leases
local function holder(stream, entry)
  local pending = (leases(stream, entry, entry, 1) or {})[1]
  if not pending then return nil end
  return pending[2], pending[4], pending[3]
end
