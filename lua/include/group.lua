-- group: the facts of a stream's group `workers` by XINFO GROUPS, as a flat list; nil if there is no group, or no
-- stream.
--- @include field
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
