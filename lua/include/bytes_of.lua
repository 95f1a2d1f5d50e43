-- bytes_of: the bytes of an entry's names and values.
local function bytes_of(fields)
  local bytes = 0
  for _, part in ipairs(fields) do bytes = bytes + #part end
  return bytes
end
