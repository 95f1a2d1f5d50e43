#!lua flags=no-writes,allow-oom
-- statistics: read the statistics of the last minutes or ten minutes. A step returns up to 120 intervals, or 1 MB.
-- Writes nothing.
--
-- ARGV[1]  minutes       int     the length of an interval: 1 or 10
-- ARGV[2]  count         int     how many intervals, with the current one
-- ARGV[3]  after         int     where the step before stopped, or the number of the first interval; '' to begin
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- ARGV[5..] the fields to read; none: all
-- Returns  {after, now ms, number, {field, value, ...}, ...}: where the next step begins, '' at the end; then
--          each interval that has some of the fields, by its number: time since 1970, divided by the length

--- @include now whole
local minutes, count, now_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), now(ARGV[4])
local first_field = 5
local prefix = minutes == 1 and KEYS['minute:'] or KEYS['ten:']
local last = math.floor(now_ms / 60000 / minutes)
local first = math.max(tonumber(ARGV[3]) or 0, last - count + 1)

-- Return the fields of an interval, and their bytes. A key of another type has none.
local function read(key)
  local found, bytes = {}, 0
  if #ARGV < first_field then
    local all = redis.pcall('HGETALL', key)
    found = all.err and {} or all
  end
  for at = first_field, #ARGV do
    local value = redis.pcall('HGET', key, ARGV[at])
    if type(value) == 'string' then found[#found + 1], found[#found + 2] = ARGV[at], value end
  end
  for _, value in ipairs(found) do bytes = bytes + #value end
  return found, bytes
end

local answer, total, number = {'', whole(now_ms)}, 0, first
while number <= last and number < first + 120 and total < 1048576 do
  local found, bytes = read(prefix .. whole(number))
  if #found > 0 then answer[#answer + 1], answer[#answer + 2] = whole(number), found end
  number, total = number + 1, total + bytes
end
if number <= last then answer[1] = whole(number) end
return answer
