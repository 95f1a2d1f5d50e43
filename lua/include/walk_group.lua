-- walk_group: go through the dead letters of one kind that come before `after`, like walk_back goes through all.
-- `after` is the score and the member of a letter in the group.
--- @include rank_after entry_at page bytes_of
local function walk_group(kind, after, look_at)
  local group, looked, bytes = KEYS['group:'] .. kind, 0, 0
  local score, last = string.match(after, '^(%S+) (%S+)$')
  local rank = score and rank_after(group, tonumber(score), last) or redis.call('ZCARD', group)
  while rank > 0 do
    local many = page(looked, bytes)
    if many == 0 then return after end
    local found = redis.call('ZRANGE', group, math.max(0, rank - many), rank - 1, 'WITHSCORES')
    for i = #found - 1, 1, -2 do
      local entry = string.gsub(found[i], '-0+(%d)', '-%1') -- see padded
      local fields = found[i] ~= last and entry_at(KEYS.dead, entry) or nil
      looked, bytes, after = looked + 1, bytes + bytes_of(fields or {}), found[i + 1] .. ' ' .. found[i]
      if fields and look_at(entry, fields) then return after end
    end
    rank = rank - many
  end
  return ''
end
