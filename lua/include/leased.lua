-- leased: the number of a stream's jobs that workers hold; -1 if the stream has too many consumers for a script:
-- ask XPENDING.
--- @include has_many leases is_waiting
local function leased(stream)
  if has_many(stream) then return -1 end
  local total = 0
  for _, consumer in ipairs((leases(stream) or {})[4] or {}) do
    if not is_waiting(consumer[1]) then total = total + tonumber(consumer[2]) end
  end
  return total
end
