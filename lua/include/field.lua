-- field: the value of one field in an entry's flat list of names and values; nil if absent.
local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return nil
end
