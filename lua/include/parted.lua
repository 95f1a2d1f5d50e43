-- parted: split a member of `due` into place in line and job id; the place is '' if the member is only an id.
local function parted(member)
  local line, job = string.match(member, '^(%d+%-%d+) (.+)$')
  return line or '', job or member
end
