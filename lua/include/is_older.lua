-- is_older: whether one entry id comes before another. The comparison is by digits, because the numbers may be too
-- large for Lua.
local function is_older(one, other)
  local ms, sequence = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_sequence = string.match(other, '^(%d+)-(%d+)$')
  if ms == other_ms then ms, other_ms = sequence, other_sequence end
  if #ms ~= #other_ms then return #ms < #other_ms end
  return ms < other_ms
end
