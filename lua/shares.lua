#!lua flags=allow-oom
-- shares: free the shares of jobs that do not run: their entries were deleted, or their lease was lost with a
-- server. Then give waiting lines the turns they lack. A turn may be lost, or far in the future because the clock
-- was set back. This is one step through the shares, or through 500 lines. Workers get a notification of turns
-- that no worker has taken.
--
-- ARGV[1]  after         where to go on, as the last step said; '' to begin
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  {after, count}: where to go on, '' at the end; and how many shares were freed, or turns given

--- @include now expect streams stream_of holder is_waiting give_up lost_turn whole tell_turn
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

local function give_turn(bucket)
  local due_ms = lost_turn(bucket, now_ms, exact_ms)
  if due_ms then redis.call('ZADD', KEYS.turns, whole(due_ms), bucket) end
  return due_ms and 1 or 0
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
