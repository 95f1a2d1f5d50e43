#!lua flags=no-writes,allow-oom
-- schedules: list the schedules of a queue, in the order of their last changes. Writes nothing.
--
-- A schedule that changes between two pages comes again, so a reader misses none. A reader that starts at the last
-- change it knows reads only new changes.
--
-- ARGV[1] now_ms int ms; '' = the server's clock
-- ARGV[2] name   only this one; '': all of them
-- ARGV[3] after  int  only schedules whose last change has a higher number; '': all of them
-- ARGV[4] bytes  int  about how many bytes to return
-- Returns {now_us, change, more, there, {name, ...}, {name, there, {field, value, ...}}, ...}: the server's clock;
--         the number of the last change of all; the change after which the next page begins, '' at the end; 1 if
--         any scheduler is running, else 0; the names of removed schedules; and the schedules, each with 1 if a
--         running scheduler declares it. Fields may be missing if another program wrote the key.

--- @include now expect field bytes_of is_declared whole last_change times
local now_ms, exact_ms = now(ARGV[1])
local name, after, bytes = ARGV[2], ARGV[3], tonumber(ARGV[4])
local most = 200 -- 500 took up to 30 ms on a small server

expect('zset', KEYS.schedules, KEYS.schedulers)
local flat, first = {name, ''}, after == '' and '-inf' or '(' .. after
if name == '' then
  flat = redis.call('ZRANGE', KEYS.schedules, first, '+inf', 'BYSCORE', 'LIMIT', 0, most + 1, 'WITHSCORES')
end

local rows, gone, more, size = {}, {}, '', 0
for i = 1, #flat, 2 do
  if size > bytes or i > 2 * most then
    more = whole(tonumber(flat[i - 1]))
    break
  end
  local fields = redis.pcall('HGETALL', KEYS['schedule:'] .. flat[i])
  local is_other = fields.err and string.find(fields.err, 'WRONGTYPE.+') -- no schedule
  if fields.err and not is_other then return error(fields) end
  local known = {declared_by = field(fields, 'declared_by'), release = field(fields, 'release')}
  size = size + bytes_of(fields)
  if is_other or #fields > 0 then
    rows[#rows + 1] = {flat[i], is_declared(known, now_ms) and 1 or 0, is_other and {} or fields}
  else
    gone[#gone + 1] = flat[i]
  end
end
local lively = redis.call('ZRANGE', KEYS.schedulers, now_ms - there_ms + 1, now_ms + there_ms - 1,
  'BYSCORE', 'LIMIT', 0, 1)
return {exact_ms * 1000, last_change(), more, #lively, gone, unpack(rows)}
