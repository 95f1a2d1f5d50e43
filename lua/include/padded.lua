-- padded: an entry id as a member of a group. A group orders members of one time by their bytes, so the number
-- after the time has at least six digits. Redis reads it as the same id.
local function padded(entry)
  local ms, sequence = string.match(entry, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.rep('0', 6 - #sequence) .. sequence
end
