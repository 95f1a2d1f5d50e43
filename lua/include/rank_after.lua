-- rank_after: the rank of the first member of a sorted set after a place, even if the member of that place is
-- gone.
local function rank_after(zset, score, member)
  -- Compare as Redis compares members of one score; Lua's own `<` depends on the locale.
  local function is_before(one, other)
    for i = 1, math.min(#one, #other) do
      local a, b = string.byte(one, i), string.byte(other, i)
      if a ~= b then return a < b end
    end
    return #one < #other
  end

  local low, high = 0, redis.call('ZCARD', zset)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call('ZRANGE', zset, middle, middle, 'WITHSCORES')
    local other = tonumber(found[2])
    if other < score or other == score and not is_before(member, found[1]) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end
