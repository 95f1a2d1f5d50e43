-- fence: remove a worker's record, so that every later call under its id is refused, and have its consumer looked at until
-- it has been empty for its lease and the longest block, as Redis may still serve a late or blocked read of it.
--- @include lease_of whole
local function fence(worker, now_ms)
  local watch_ms, record = lease_of(worker) + 5000, KEYS['worker:'] .. worker
  redis.call('ZREM', KEYS.workers, worker)
  redis.call('DEL', record)
  redis.call('HSET', record, 'fenced_at', whole(now_ms), 'watch_ms', whole(watch_ms),
    'watched_until', whole(now_ms + watch_ms))
  redis.call('ZADD', KEYS.fenced, whole(now_ms), worker)
end
