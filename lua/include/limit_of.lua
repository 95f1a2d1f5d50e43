-- limit_of: the limit of a job name, as `limits` has it in words; nil for none. `most` is how many of its jobs may run at
-- once, `every_us` how many µs are between two starts, `ahead_us` by how many µs starts may come before their turn by that, so
-- that a burst may start together after a rest; nil for what is not limited, or can't be read.
local function limit_of(limits, name)
  local text = redis.call('HGET', limits, name)
  if not text then return nil end
  local limit = {most = tonumber(string.match(text, 'max_concurrency=(%d+)') or nil)}
  local many, unit = string.match(text, 'rate=(%d+%.?%d*)/([smh])')
  if many and tonumber(many) > 0 then
    -- One start in a year is the least, and all of a burst in a hundred: more digits than that are not exact any more.
    limit.every_us = math.ceil(({s = 1e6, m = 6e7, h = 3.6e9})[unit] / tonumber(many))
    limit.every_us = math.max(1, math.min(limit.every_us, 3.2e13))
    local burst = tonumber(string.match(text, 'burst=(%d+)') or nil)
    -- Without a burst: how late a start may be, and cost no rate.
    limit.ahead_us = 1e5
    if burst then limit.ahead_us = (math.max(1, math.min(burst, 1e6, math.floor(3.2e15 / limit.every_us))) - 1) * limit.every_us end
  end
  return limit
end
