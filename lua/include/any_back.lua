-- any_back: whether a stream has jobs that were handed back, including those that have to run alone.
--- @include leases
local function any_back(stream)
  for _, consumer in ipairs({'released', 'alone'}) do
    if #(leases(stream, '-', '+', 1, consumer) or {}) > 0 then return true end
  end
  return false
end
