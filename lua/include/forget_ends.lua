-- forget_ends: delete the results, outcomes, progress and chunks of earlier jobs with these ids. A command takes
-- 250 of them, because unpack takes 1,000 values.
local function forget_ends(ids)
  for first = 1, #ids, 250 do
    local known = {}
    for i = first, math.min(first + 249, #ids) do
      local id, at = ids[i], #known
      known[at + 1], known[at + 2] = KEYS['result:'] .. id, KEYS['outcome:'] .. id
      known[at + 3], known[at + 4] = KEYS['progress:'] .. id, KEYS['chunks:'] .. id
    end
    redis.call('DEL', unpack(known))
  end
end
