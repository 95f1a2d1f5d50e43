-- has_many: whether a group has too many consumers for a script to list. Each worker and each waiting line is a
-- consumer. A client lists 50,000 in a tenth of the time.
--- @include group field
local function has_many(stream)
  local ours = group(stream)
  return ours ~= nil and field(ours, 'consumers') > 1000
end
