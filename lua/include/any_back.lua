-- any_back: whether any job of a stream was handed back and is nobody's yet, be it one that has to run alone. Needs leases
-- beside it.
local function any_back(stream)
  for _, consumer in ipairs({'released', 'alone'}) do
    if #(leases(stream, '-', '+', 1, consumer) or {}) > 0 then return true end
  end
  return false
end
