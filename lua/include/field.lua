-- field: the value of one field in an entry's flat list; nil if it has none. If a field comes several times the
-- last one counts, as in Python.
local function field(fields, name)
  for i = #fields - 1, 1, -2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return nil
end
