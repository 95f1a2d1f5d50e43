-- time_of: a time from an entry's field, in ms; from the entry's id if it has none, or one that is no number.
--- @include field
local function time_of(fields, name, entry)
  local text = field(fields, name) or ''
  return tonumber(#text < 16 and string.match(text, '^%d+$') or string.match(entry, '^%d+') or 0)
end
