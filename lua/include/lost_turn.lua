-- lost_turn: the time in ms when a worker has to look at a waiting line next, if no turn says so; nil if nothing
-- is missing. A turn may be lost, or far in the future because the clock was set back.
--- @include limit_of room false_holder
local function lost_turn(bucket, now_ms, exact_ms)
  -- nil: the line waits for a share, or its name is paused.
  local function due_at()
    local name = string.match(bucket, '^%S*')
    if redis.call('HGET', KEYS['paused:names'], name) then return nil end
    local limit = limit_of(name)
    if not limit then return now_ms end
    local free, from_us = room(bucket, limit, math.floor(exact_ms * 1000 + 0.5))
    if from_us then return math.ceil(from_us / 1000) end
    return (free > 0 or false_holder(bucket)) and now_ms or nil
  end

  local known, due_ms = tonumber(redis.call('ZSCORE', KEYS.turns, bucket) or nil), due_at()
  if not due_ms or known and known <= due_ms then return nil end
  -- A line from which as many jobs as its limit allows were just handed back has its next turn in 5 s.
  return not (known and due_ms == now_ms and known <= now_ms + 5000) and due_ms or nil
end
