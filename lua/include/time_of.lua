-- time_of: the time in an entry's field, in ms; the time in its entry id, if the field is missing or no number.
--- @include field
local function time_of(fields, name, entry)
  local text = field(fields, name) or ''
  return tonumber(#text < 16 and string.match(text, '^%d+$') or string.match(entry, '^%d+') or 0)
end
