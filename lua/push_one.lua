#!lua
-- push_one: add one small job that push_plain would take. Refused whole when Redis is out of memory.
--
-- Most jobs are pushed one by one. A script that runs now and then finds nothing in the processor's caches, so
-- each of its steps costs time. This script is push_plain without the steps that only many jobs need.
--
-- ARGV[1]  now_ms      int ms; '' = the server's clock
-- ARGV[2]  sent_ms     int ms  when this was sent, by the server's clock; '' if the client does not know it yet
-- ARGV[3]  priority    high, normal or low
-- ARGV[4]  id          made for this push
-- ARGV[5]  name
-- ARGV[6]  parameters  less than 16 KB; larger ones need include/note_large
-- Returns  {now_us, word}: the server's clock, and one word:
--          OK      on the queue
--          PARTIAL nothing was written; call push
--          STALE   sent too long ago, or the server's clock was set since; nothing was written

--- @include now mark recent_ends checked count expect
local now_ms, exact_ms = now(ARGV[1])
local sent_ms, priority, id, name, parameters = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local is_late, ended = recent_ends(sent_ms, now_ms, nil, mark(id))
if is_late then return {exact_ms * 1000, 'STALE'} end
if ended or checked('hash', KEYS.jobs, redis.pcall('HGET', KEYS.jobs, id)) then
  return {exact_ms * 1000, 'PARTIAL'}
end
local entry = redis.pcall('XADD', KEYS['ready:'] .. priority, '*', 'id', id, 'name', name,
  'parameters', parameters)
if type(entry) ~= 'string' then
  expect('stream', KEYS['ready:'] .. priority)
  return error(entry)
end
redis.call('HSET', KEYS.jobs, id, priority .. ' ' .. entry)
count('pushed', 1)
return {exact_ms * 1000, 'OK'}
