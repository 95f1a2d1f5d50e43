-- field: the value of one field in an entry's flat list of names and values; nil if absent. Of a name given
-- twice, by hand, the last value counts, as it does for the worker.
local function field(fields, name)
  for i = #fields - 1, 1, -2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return nil
end
