-- delay: delay a job until `due_at` (ms). `line` is its place among jobs due at the same time. With `suspended`
-- the job waits in the middle of its handler, and `due_at` is the latest time to wake it, or `+inf`. Returns
-- whether it is now the earliest; then the caller notifies sleeping workers.
local function delay(job, priority, fields, due_at, line, suspended)
  local index = suspended and KEYS.suspended or KEYS.due
  local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')[2]
  table.insert(fields, 1, priority)
  redis.call('ZADD', index, due_at == '+inf' and due_at or string.format('%.0f', due_at), line .. ' ' .. job)
  redis.call('HSET', KEYS.delayed, job, cjson.encode(fields))
  redis.call('HSET', KEYS.jobs, job, 'delayed ' .. line .. (suspended and ' suspended' or ''))
  return due_at ~= '+inf' and (not first or due_at < tonumber(first))
end
