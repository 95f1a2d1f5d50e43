#!lua flags=allow-oom
-- shares: give up the shares of jobs that do not run, as their entries were removed by hand, or their lease was lost with a
-- server. Then see to it that of each line somebody looks when its next job may start: its turn may be lost, or be far off,
-- as the clock was set back; one of a line that waits for a share is given by whoever has that. One step through the
-- shares, or through 500 lines; tidy says once a minute that it is time. Workers are told of turns that nobody took.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  limits        hash    job name -> its limit, in words
-- KEYS[5]  shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[6]  holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[7]  rate:         string  prefix; rate:<name> <key> has the theoretical arrival time of its next job, µs
-- KEYS[8]  turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[9]  lines         zset    names and keys that have a waiting line, in alphabetical order
-- KEYS[10] paused:names  hash    job names that are paused -> since when, ms
-- KEYS[11] control       channel notifications
--
-- ARGV[1]  after         where to go on, as the last step said; '' to begin
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  {after, count}: where to go on, '' at the end; and how many shares were given up, or turns given

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/holder"
--- @include "include/is_waiting"
--- @include "include/tell"
--- @include "include/tell_turn"
--- @include "include/limit_of"
--- @include "include/arrival"
--- @include "include/room"
--- @include "include/give_up"
--- @include "include/false_holder"

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local keys = {limits = KEYS[4], shares = KEYS[5], holders = KEYS[6], rate = KEYS[7], turns = KEYS[8], lines = KEYS[9]}
local paused_names, control = KEYS[10], KEYS[11]
local part, after = string.match(ARGV[1], '^(%l+) (.*)$')
local now_ms, exact_ms = now(ARGV[2])

expect('stream', KEYS[1], KEYS[2], KEYS[3])
expect('hash', keys.limits, keys.shares, paused_names)
expect('zset', keys.turns, keys.lines)

local function give_up_false_ones(cursor)
  local page = redis.call('HSCAN', keys.shares, cursor, 'COUNT', 200)
  local false_ones = {}
  for i = 1, #page[2], 2 do
    local place, entry = string.match(page[2][i], '^(%S+) (%d+%-%d+)$')
    local consumer = places[place] and holder(places[place], entry)
    if is_waiting(consumer) and #false_ones < 500 then false_ones[#false_ones + 1] = page[2][i] end
  end
  give_up(keys, false_ones, now_ms)
  return page[1] == '0' and 'line ' or 'share ' .. page[1], #false_ones
end

-- When somebody is to look at a line, ms; nil: it waits for a share, or for its name to be resumed.
local function due_at(bucket)
  local name = string.match(bucket, '^%S*')
  if redis.call('HGET', paused_names, name) then return nil end
  local limit = limit_of(keys.limits, name)
  if not limit then return now_ms end
  local free, from_us = room(keys, bucket, limit, math.floor(exact_ms * 1000 + 0.5))
  if from_us then return math.ceil(from_us / 1000) end
  return (free > 0 or false_holder(keys, bucket)) and now_ms or nil
end

local function give_turn(bucket)
  local known, due_ms = tonumber(redis.call('ZSCORE', keys.turns, bucket) or nil), due_at(bucket)
  if not due_ms or known and known <= due_ms then return 0 end
  -- One that was given all its room a moment ago is looked at again in time.
  if known and due_ms == now_ms and known <= now_ms + 5000 then return 0 end
  redis.call('ZADD', keys.turns, whole(due_ms), bucket)
  return 1
end

local function give_lost_turns(last)
  local page = redis.call('ZRANGE', keys.lines, last == '' and '-' or '(' .. last, '+', 'BYLEX', 'LIMIT', 0, 500)
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
local is_overdue = #redis.call('ZRANGEBYSCORE', keys.turns, '-inf', whole(now_ms), 'LIMIT', 0, 1) > 0
if count > 0 or is_overdue and left_off == '' then tell_turn(keys.turns, control) end
return {left_off, count}
