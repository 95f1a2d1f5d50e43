-- parted: a member of `due` as place in line and job id; the place is '' if the member is an id alone.
local function parted(member)
  local line, job = string.match(member, '^(%d+%-%d+) (.+)$')
  return line or '', job or member
end
