-- take_turns: hand back jobs that waited in line for a limit, and whose turn it is: from up to 50 lines, up to 500 jobs, of
-- each line those of the highest priority first. Each looks again whether it may start when it is claimed, so a line that was
-- given all its room is looked at once more a few seconds later, should one of them not have started; so is one with room for
-- more than 500, as those have no share before they are claimed. A line of jobs whose name is paused waits until that is resumed.
--
-- `keys` has streams, jobs, paused_names, and those of limits. Needs whole, leases, forget, limit_of, arrival, room,
-- false_holder, hand_back_held beside it. Returns how many were handed back, and whether any line was looked at: whoever did
-- sees to the next turn too, at once where more than these lines have theirs now
local function take_turns(keys, now_ms, now_us)
  local total = 0

  local function hand_on(bucket)
    local name, consumer = string.match(bucket, '^%S*'), 'line:' .. bucket
    if redis.call('HGET', keys.paused_names, name) then return 0 end
    local limit, free, from_us = limit_of(keys.limits, name), math.huge, nil
    if limit then free, from_us = room(keys, bucket, limit, now_us) end
    local false_one = free == 0 and not from_us and false_holder(keys, bucket)
    if false_one then
      redis.call('ZREM', keys.holders .. bucket, false_one)
      free, from_us = room(keys, bucket, limit, now_us)
    end
    if free == 0 then return 0, from_us and math.ceil(from_us / 1000) end
    local wanted = math.min(free, 500 - total)
    local given = hand_back_held(keys, consumer, wanted, 0, now_ms)
    if given == wanted then return given, limit and now_ms + 5000 or now_ms end
    forget(keys.streams, consumer)
    redis.call('ZREM', keys.lines, bucket)
    return given
  end

  local due = redis.call('ZRANGEBYSCORE', keys.turns, '-inf', whole(now_ms), 'LIMIT', 0, 50)
  for _, bucket in ipairs(due) do
    if total == 500 then break end
    local given, again_ms = hand_on(bucket)
    total = total + given
    if again_ms then
      redis.call('ZADD', keys.turns, whole(again_ms), bucket)
    else
      redis.call('ZREM', keys.turns, bucket)
    end
  end
  return total, #due > 0
end
