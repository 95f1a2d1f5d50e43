-- has_many: whether a stream's group has too many consumers for a script to list: each worker is one, and so is each waiting
-- line. A client lists 50,000 in a tenth of the time. Needs group, field beside it.
local function has_many(stream)
  local ours = group(stream)
  return ours ~= nil and field(ours, 'consumers') > 1000
end
