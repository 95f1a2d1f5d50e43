-- history: the unusual events of a job, a line each: the lines of its entry, lines noted since the entry was
-- written, and `one`. '' if there are none.
--- @include field add_line
local function history(fields, place, one)
  local text, noted = field(fields, 'history') or '', redis.pcall('HGET', KEYS.history, place)
  for line in string.gmatch(type(noted) == 'string' and noted or '', '[^\n]+') do text = add_line(text, line) end
  return one and add_line(text, one) or text
end
