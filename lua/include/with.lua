-- with: a copy of an entry's flat list with `changes`, a flat list too. A change replaces the field of the same
-- name. An empty string removes a field. The other fields keep their order.
local function with(fields, changes)
  local changed, copy = {}, {}
  for i = 1, #changes, 2 do changed[changes[i]] = true end
  for _, list in ipairs({fields, changes}) do
    for i = 1, #list, 2 do
      local replaced = list == fields and changed[list[i]]
      if not replaced and not (list == changes and list[i + 1] == '') then
        copy[#copy + 1], copy[#copy + 2] = list[i], list[i + 1]
      end
    end
  end
  return copy
end
