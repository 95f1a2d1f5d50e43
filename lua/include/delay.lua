-- delay: delay a job until `due_at` (ms). `line` is its place among jobs due at the same time. Returns whether it is the
-- earliest now; then the caller notifies sleeping workers.
local function delay(job, priority, fields, due_at, line)
  local first = redis.call('ZRANGE', KEYS.due, 0, 0, 'WITHSCORES')[2]
  table.insert(fields, 1, priority)
  redis.call('ZADD', KEYS.due, string.format('%.0f', due_at), line .. ' ' .. job)
  redis.call('HSET', KEYS.delayed, job, cjson.encode(fields))
  redis.call('HSET', KEYS.jobs, job, 'delayed ' .. line)
  return not first or due_at < tonumber(first)
end
