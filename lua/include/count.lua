-- count: add to one of the counters. What somebody has put in its place, or a permission that is missing, is not worth
-- a job: the state is changed already, or about to be.
local function count(stats, name, by)
  redis.pcall('HINCRBY', stats, name, by)
end
