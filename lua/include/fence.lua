-- fence: take a worker's record away, so that every verb of its id is refused from now on, and note that its consumer is
-- to be looked at: at once, and until it has been empty for as long as a late or blocked read of it may still be
-- served: its lease, and the longest block. `keys` has workers, fenced, record. Needs whole, lease_of beside it.
local function fence(keys, worker, now_ms)
  local watch_ms = lease_of(keys.record .. worker) + 5000
  redis.call('ZREM', keys.workers, worker)
  redis.call('DEL', keys.record .. worker)
  redis.call('HSET', keys.record .. worker, 'fenced_at', whole(now_ms), 'watch_ms', whole(watch_ms),
    'watched_until', whole(now_ms + watch_ms))
  redis.call('ZADD', keys.fenced, whole(now_ms), worker)
end
