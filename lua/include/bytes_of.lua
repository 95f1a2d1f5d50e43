-- bytes_of: how long the names and values of an entry are in all.
local function bytes_of(fields)
  local bytes = 0
  for _, part in ipairs(fields) do bytes = bytes + #part end
  return bytes
end
