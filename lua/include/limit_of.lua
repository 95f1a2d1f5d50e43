-- limit_of: the limit of a job name; nil for none. `most`: the number of its jobs that may run at once.
-- `every_us`: µs between two starts. `ahead_us`: how many µs early a start may be. A part that is nil is not
-- limited, or not readable.
local function limit_of(name)
  local text = redis.call('HGET', KEYS.limits, name)
  if not text then return nil end
  local limit = {most = tonumber(string.match(text, 'max_concurrency=(%d+)') or nil)}
  local many, unit = string.match(text, 'rate=(%d+%.?%d*)/([smh])')
  if many and tonumber(many) > 0 then
    -- At least one start a year, and a burst within a hundred years, because more digits are not exact in Lua.
    limit.every_us = math.ceil(({s = 1e6, m = 6e7, h = 3.6e9})[unit] / tonumber(many))
    limit.every_us = math.max(1, math.min(limit.every_us, 3.2e13))
    local burst = tonumber(string.match(text, 'burst=(%d+)') or nil)
    -- Without a burst: how late a start may be without loss of rate.
    limit.ahead_us = 1e5
    if burst then
      limit.ahead_us = (math.max(1, math.min(burst, 1e6,
        math.floor(3.2e15 / limit.every_us))) - 1) * limit.every_us
    end
  end
  return limit
end
