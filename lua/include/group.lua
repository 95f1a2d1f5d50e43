-- group: what XINFO GROUPS tells of a stream's group `workers`, as names and values; nil where it has none, or there is no
-- such stream. Needs field beside it.
local function group(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, one in ipairs(groups.err and {} or groups) do
    if field(one, 'name') == 'workers' then return one end
  end
  return nil
end
