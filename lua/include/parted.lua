-- parted: a member of `due` as place in line and job id. '' is the place of one that is an id alone, as put in by hand.
local function parted(member)
  local line, job = string.match(member, '^(%d+%-%d+) (.+)$')
  return line or '', job or member
end
