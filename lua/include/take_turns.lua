-- take_turns: hand back jobs of the waiting lines that have a turn now: up to 50 lines and 500 jobs, by priority
-- within a line. A job takes its share only when it is claimed. So if as many were handed back as the limit of a
-- line allows, its next turn is 5 s later, in case one of them does not start. A line whose name is paused waits
-- until it is resumed.
-- Returns the number of jobs handed back, and whether it looked at any line. If it did, the caller's worker also
-- looks at the next turn.
--- @include limit_of room false_holder hand_back_held forget whole
local function take_turns(now_ms, now_us)
  local total = 0

  local function hand_on(bucket)
    local name, consumer = string.match(bucket, '^%S*'), 'line:' .. bucket
    if redis.call('HGET', KEYS['paused:names'], name) then return 0 end
    local limit, free, from_us = limit_of(name), math.huge, nil
    if limit then free, from_us = room(bucket, limit, now_us) end
    local false_one = free == 0 and not from_us and false_holder(bucket)
    if false_one then
      redis.call('ZREM', KEYS['holders:'] .. bucket, false_one)
      free, from_us = room(bucket, limit, now_us)
    end
    if free == 0 then return 0, from_us and math.ceil(from_us / 1000) end
    local wanted = math.min(free, 500 - total)
    local given = hand_back_held(consumer, wanted, 0, now_ms)
    if given == wanted then return given, limit and now_ms + 5000 or now_ms end
    forget(consumer)
    redis.call('ZREM', KEYS.lines, bucket)
    return given
  end

  local due = redis.call('ZRANGEBYSCORE', KEYS.turns, '-inf', whole(now_ms), 'LIMIT', 0, 50)
  for _, bucket in ipairs(due) do
    if total == 500 then break end
    local given, again_ms = hand_on(bucket)
    total = total + given
    if again_ms then
      redis.call('ZADD', KEYS.turns, whole(again_ms), bucket)
    else
      redis.call('ZREM', KEYS.turns, bucket)
    end
  end
  return total, #due > 0
end
