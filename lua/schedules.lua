#!lua flags=no-writes,allow-oom
-- schedules: the schedules of a queue, in the order of their names; writes nothing.
--
-- KEYS[1] schedules hash    schedule name -> the last slot that was seen to, ms
-- KEYS[2] schedule: hash    prefix; schedule:<name> holds one schedule: its rule, its job, what became of it
-- KEYS[3] layout    hash    version of the keys; how often the schedules were changed
--
-- ARGV[1] now_ms int ms; '' = the server's clock
-- ARGV[2] name   only this one; '': all of them
-- ARGV[3] after  begin after this name; '': with the first
-- ARGV[4] bytes  int  how much of them to return, more or less
--
-- Returns {now_us, changes, more, {name, last slot ('' for none), {field, value, ...}}, ...}: the server's clock; how often
--         the schedules were changed; the name after which there are more, '' for none; and the schedules. One that
--         somebody has put there by hand may lack anything.

--- @include "include/now"
--- @include "include/times_changed"

local schedules, prefix, layout = KEYS[1], KEYS[2], KEYS[3]
local _, exact_ms = now(ARGV[1])
local name, after, bytes = ARGV[2], ARGV[3], tonumber(ARGV[4])

local most = 500 -- rows
local slots, names, last = {}, {}, nil
local flat = name == '' and redis.call('HGETALL', schedules) or {name, redis.call('HGET', schedules, name) or ''}
-- Only the first names are wanted, and whether there are more: to sort ten thousand takes too long.
for i = 1, #flat, 2 do
  if flat[i] > after and (not last or flat[i] < last) then
    names[#names + 1], slots[flat[i]] = flat[i], flat[i + 1]
    if #names > 2 * most then
      table.sort(names)
      for j = #names, most + 2, -1 do names[j] = nil end
      last = names[#names]
    end
  end
end
table.sort(names)

local rows, more, size = {}, last or '', 0
for i, each in ipairs(names) do
  if size > bytes or #rows == most then
    more = names[i - 1]
    break
  end
  local fields = redis.pcall('HGETALL', prefix .. each)
  local is_other = fields.err and string.find(fields.err, 'WRONGTYPE.+') -- by hand
  if fields.err and not is_other then return error(fields) end
  if is_other or #fields > 0 then rows[#rows + 1] = {each, slots[each], is_other and {} or fields} end
  for _, part in ipairs(fields) do size = size + #part end
end
return {exact_ms * 1000, times_changed(layout), more, unpack(rows)}
