-- fence: delete a worker's record, so that every later call under its id is refused. Note its consumer in
-- `fenced`, because Redis may still serve a late or blocked read. Workers look at the consumer until it has been
-- empty for a lease and the longest block.
--- @include lease_of whole
local function fence(worker, now_ms)
  local watch_ms, record = lease_of(worker) + 5000, KEYS['worker:'] .. worker
  redis.call('ZREM', KEYS.workers, worker)
  redis.call('DEL', record)
  redis.call('HSET', record, 'fenced_at', whole(now_ms), 'watch_ms', whole(watch_ms),
    'watched_until', whole(now_ms + watch_ms))
  redis.call('ZADD', KEYS.fenced, whole(now_ms), worker)
end
