-- forget_ends: delete the results, outcomes and progress of earlier jobs with these ids. 300 a command, because unpack takes
-- 1,000 values.
local function forget_ends(ids)
  for first = 1, #ids, 300 do
    local known = {}
    for i = first, math.min(first + 299, #ids) do
      local id, at = ids[i], #known
      known[at + 1], known[at + 2], known[at + 3] = KEYS['result:'] .. id, KEYS['outcome:'] .. id, KEYS['progress:'] .. id
    end
    redis.call('DEL', unpack(known))
  end
end
