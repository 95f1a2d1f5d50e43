-- group: what XINFO GROUPS tells of a stream's group `workers`, as names and values; nil where it has none, or there is no
-- such stream. Needs field beside it.
local function group(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then
    if string.find(groups.err, 'no such key', 1, true) then return nil end
    return error(groups)
  end
  for _, one in ipairs(groups) do
    if field(one, 'name') == 'workers' then return one end
  end
  return nil
end
