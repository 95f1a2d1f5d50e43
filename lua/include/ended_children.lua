-- ended_children: how the children of each group of a job have ended, as a list: for each group its token, how many there are, and what
-- the group's record says of each. nil if some have not ended, or they have returned more bytes than `most_bytes`.
--- @include groups_of whole
local function ended_children(job, most_bytes)
  local list, bytes = {}, 0
  for _, token in ipairs(groups_of(job)) do
    local group = KEYS['children:'] .. token
    local known = redis.pcall('HMGET', group, 'total', 'left')
    local total, left = tonumber(known[1] or nil), tonumber(known[2] or nil)
    if total and left ~= 0 then return nil end
    if total then list[#list + 1], list[#list + 2] = token, whole(total) end
    for first = 0, (total or 0) - 1, 10 do
      local indexes = {}
      for i = first, math.min(first + 9, total - 1) do indexes[#indexes + 1] = whole(i) end -- they may be large
      for _, outcome in ipairs(redis.call('HMGET', group, unpack(indexes))) do list[#list + 1] = outcome or '' end
      for i = #list - #indexes + 1, #list do bytes = bytes + #list[i] end
      if bytes > most_bytes then return nil end
    end
  end
  return list
end
