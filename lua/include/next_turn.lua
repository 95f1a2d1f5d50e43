-- next_turn: in how many µs the next job of a waiting line may start; -1: none waits for a time.
local function next_turn(exact_ms)
  local first = redis.call('ZRANGE', KEYS.turns, 0, 0, 'WITHSCORES')[2]
  if not first then return -1 end
  return math.min(math.max(0, tonumber(first) - exact_ms) * 1000, 1e15)
end
