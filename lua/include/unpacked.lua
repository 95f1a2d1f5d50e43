-- unpacked: fields and priority of a delayed job, from its JSON in `delayed`. nil if that is not a list of strings
-- with a priority, names and values, or is too long for XADD.
local function unpacked(packed)
  local readable, list = pcall(cjson.decode, packed)
  if not readable or type(list) ~= 'table' or #list < 3 or #list > 2001 or #list % 2 == 0 then return nil end
  for i = 1, #list do
    if type(list[i]) ~= 'string' then return nil end
  end
  local priority = table.remove(list, 1)
  if priority ~= 'high' and priority ~= 'normal' and priority ~= 'low' then return nil end
  return list, priority
end
