-- delay: let a job wait until `due_at` (ms), packed as claim unpacks it. `line` is its place among those due at the same
-- time: as text, so that what came later is greater. Returns whether it is now the earliest; then whoever sleeps until
-- the next due time has to hear of it.
local function delay(jobs, due, delayed, job, priority, fields, due_at, line)
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
  table.insert(fields, 1, priority)
  redis.call('ZADD', due, string.format('%.0f', due_at), line .. ' ' .. job)
  redis.call('HSET', delayed, job, cjson.encode(fields))
  redis.call('HSET', jobs, job, 'delayed ' .. line)
  return not first or due_at < tonumber(first)
end
