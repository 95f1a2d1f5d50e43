#!lua flags=allow-oom
-- shares: free the shares of jobs that do not run: their entries were deleted, or their lease was lost with a server. Then
-- give waiting lines the turns they lack: a turn may be lost, or far off because the clock was set back. One step through the
-- shares, or through 500 lines. Workers get a notification of the turns that no worker has taken.
--
-- ARGV[1]  after         where to go on, as the last step said; '' to begin
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  {after, count}: where to go on, '' at the end; and how many shares were freed, or turns given

--- @include now expect streams stream_of holder is_waiting give_up limit_of room false_holder whole tell_turn
local part, after = string.match(ARGV[1], '^(%l+) (.*)$')
local now_ms, exact_ms = now(ARGV[2])

expect('stream', unpack(streams))
expect('hash', KEYS.limits, KEYS.shares, KEYS['paused:names'])
expect('zset', KEYS.turns, KEYS.lines)

local function give_up_false_ones(cursor)
  local page = redis.call('HSCAN', KEYS.shares, cursor, 'COUNT', 200)
  local false_ones = {}
  for i = 1, #page[2], 2 do
    local place, entry = string.match(page[2][i], '^(%S+) (%d+%-%d+)$')
    local consumer = stream_of[place] and holder(stream_of[place], entry)
    if is_waiting(consumer) and #false_ones < 500 then false_ones[#false_ones + 1] = page[2][i] end
  end
  give_up(false_ones, now_ms)
  return page[1] == '0' and 'line ' or 'share ' .. page[1], #false_ones
end

-- Return when a worker has to look at a line, ms; nil: the line waits for a share, or its name is paused.
local function due_at(bucket)
  local name = string.match(bucket, '^%S*')
  if redis.call('HGET', KEYS['paused:names'], name) then return nil end
  local limit = limit_of(name)
  if not limit then return now_ms end
  local free, from_us = room(bucket, limit, math.floor(exact_ms * 1000 + 0.5))
  if from_us then return math.ceil(from_us / 1000) end
  return (free > 0 or false_holder(bucket)) and now_ms or nil
end

local function give_turn(bucket)
  local known, due_ms = tonumber(redis.call('ZSCORE', KEYS.turns, bucket) or nil), due_at(bucket)
  if not due_ms or known and known <= due_ms then return 0 end
  -- A line that has just been handed back as far as its limit allows has its next turn in 5 s.
  if known and due_ms == now_ms and known <= now_ms + 5000 then return 0 end
  redis.call('ZADD', KEYS.turns, whole(due_ms), bucket)
  return 1
end

local function give_lost_turns(last)
  local page = redis.call('ZRANGE', KEYS.lines, last == '' and '-' or '(' .. last, '+', 'BYLEX', 'LIMIT', 0, 500)
  local given = 0
  for _, bucket in ipairs(page) do given = given + give_turn(bucket) end
  return #page == 500 and 'line ' .. page[500] or '', given
end

local left_off, count
if part == 'line' then
  left_off, count = give_lost_turns(after)
else
  left_off, count = give_up_false_ones(after or '0')
end
local is_overdue = #redis.call('ZRANGEBYSCORE', KEYS.turns, '-inf', whole(now_ms), 'LIMIT', 0, 1) > 0
if count > 0 or is_overdue and left_off == '' then tell_turn() end
return {left_off, count}
