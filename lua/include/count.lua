-- count: add to a counter. It never fails: the job's state has changed already, or is about to.
local function count(name, by)
  redis.pcall('HINCRBY', KEYS.stats, name, by)
end
