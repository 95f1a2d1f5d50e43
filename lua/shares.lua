#!lua flags=allow-oom
-- shares: give up the shares of jobs that do not run, as their entries were removed by hand, or their lease was lost with a
-- server. One step through the shares; tidy says once a minute that it is time.
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
-- KEYS[10] control       channel notifications
--
-- ARGV[1]  cursor        where to go on, as the last step said; 0 to begin
-- ARGV[2]  now_ms        int ms; '' = the server's clock
--
-- Returns  {cursor, count}: where to go on, 0 at the end; and how many were given up

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/holder"
--- @include "include/is_waiting"
--- @include "include/tell"
--- @include "include/limit_of"
--- @include "include/give_up"

local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local keys = {limits = KEYS[4], shares = KEYS[5], holders = KEYS[6], rate = KEYS[7], turns = KEYS[8], lines = KEYS[9]}
local control, cursor, now_ms = KEYS[10], ARGV[1], now(ARGV[2])

expect('stream', KEYS[1], KEYS[2], KEYS[3])
expect('hash', keys.limits, keys.shares)
expect('zset', keys.turns, keys.lines)
local page = redis.call('HSCAN', keys.shares, cursor, 'COUNT', 200)
local false_ones = {}
for i = 1, #page[2], 2 do
  local place, entry = string.match(page[2][i], '^(%S+) (%d+%-%d+)$')
  local consumer = places[place] and holder(places[place], entry)
  if is_waiting(consumer) and #false_ones < 500 then false_ones[#false_ones + 1] = page[2][i] end
end
give_up(keys, false_ones, now_ms)
if #false_ones > 0 then tell(control, 'due ' .. whole(now_ms)) end
return {page[1], #false_ones}
