-- holder: which consumer has this entry pending, by which delivery, and for how many ms; nil: none (also before
-- the group was made, which the first worker does). Needs leases beside it.
local function holder(stream, entry)
  local pending = (leases(stream, entry, entry, 1) or {})[1]
  if not pending then return nil end
  return pending[2], pending[4], pending[3]
end
