-- promote: move up to `limit` delayed jobs that are due by `now_ms` to their ready streams, earliest first.
-- `ready` maps a priority to its stream. A delayed job is a JSON list of strings: the priority, then the entry's names and values. Strings only:
-- that is what cjson keeps to the byte.
local function promote(ready, jobs, due, delayed, now_ms, limit)
  local ids = redis.call('ZRANGEBYSCORE', due, '-inf', now_ms, 'LIMIT', 0, limit)
  for _, job in ipairs(ids) do
    local packed = redis.call('HGET', delayed, job)
    redis.call('ZREM', due, job)
    redis.call('HDEL', delayed, job)
    if packed then
      local fields = cjson.decode(packed)
      local stream = ready[table.remove(fields, 1)]
      local entry = redis.call('XADD', stream, '*', unpack(fields))
      redis.call('HSET', jobs, job, string.match(stream, '}:(.+)$') .. ' ' .. entry)
    else
      redis.call('HDEL', jobs, job)
    end
  end
  return #ids
end
