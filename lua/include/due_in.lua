-- due_in: the µs until the first member of `due` or `turns` is due; -1: there is none.
local function due_in(zset, exact_ms)
  local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2]
  return first and math.min(math.max(0, tonumber(first) - exact_ms) * 1000, 1e15) or -1 -- a score may be `inf`
end
