-- add_line: a text of lines with one more. Of more than 20 lines, or 4 KB, only the first line and the newest ones
-- stay.
local function add_line(text, one)
  text = text == '' and one or text .. '\n' .. one
  local _, breaks = string.gsub(text, '\n', '')
  while breaks > 1 and (breaks >= 20 or #text > 4096) do
    text = string.gsub(text, '\n[^\n]*', '', 1)
    breaks = breaks - 1
  end
  return text
end
