-- time_of: a time that an entry has in one of its fields, ms; where it has none, or by hand what is no time, that in the
-- entry's id. Needs field beside it.
local function time_of(fields, name, entry)
  local text = field(fields, name) or ''
  return tonumber(#text < 16 and string.match(text, '^%d+$') or string.match(entry, '^%d+') or 0)
end
