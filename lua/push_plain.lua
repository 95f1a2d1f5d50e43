#!lua
-- push_plain: add plain jobs: they have only a name and parameters, may run now, and have an id that was made for
-- this push. The script is for first tries only. If one of the jobs may be known already, it writes nothing.
-- Refused whole when Redis is out of memory.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  sent_ms       int ms  when this was sent, by the server's clock; '' if the client does not know it yet
-- ARGV[3]  stream        int     1 to 3
-- ARGV[4..] all ids, at most 500; all names; all parameters
-- Returns  {now_us, word}: the server's clock, and one word for all:
--          OK      on the queue
--          PARTIAL nothing was written; call push
--          STALE   sent too long ago, or the server's clock was set since; nothing was written

--- @include now streams mark recent_ends checked expect note_large count
local now_ms, exact_ms = now(ARGV[1])
local sent_ms, stream = tonumber(ARGV[2]), streams[tonumber(ARGV[3])]
local first_id = 4
local many = (#ARGV - 3) / 3
local first_name, first_parameters = first_id + many, first_id + 2 * many

-- Each id must have no locator, must not have ended lately, and must come once.
local located = checked('hash', KEYS.jobs, redis.pcall('HMGET', KEYS.jobs, unpack(ARGV, first_id, first_name - 1)))
local marks, seen, are_new = {}, {}, true
for i = 1, many do
  local id = ARGV[first_id + i - 1]
  are_new = are_new and not located[i] and not seen[id]
  marks[i], seen[id] = mark(id), true
end
local is_late, ended = recent_ends(sent_ms, now_ms, nil, unpack(marks))
if is_late then return {exact_ms * 1000, 'STALE'} end
if ended or not are_new then return {exact_ms * 1000, 'PARTIAL'} end
expect('stream', stream)
local place, newly, failure = string.match(stream, '[^:]+$') .. ' ', {}, nil
for i = 0, many - 1 do
  local id, name, parameters = ARGV[first_id + i], ARGV[first_name + i], ARGV[first_parameters + i]
  local entry = redis.pcall('XADD', stream, '*', 'id', id, 'name', name, 'parameters', parameters)
  if type(entry) ~= 'string' then
    failure = entry
    break
  end
  newly[2 * i + 1], newly[2 * i + 2] = id, place .. entry
  note_large(stream, entry, #parameters)
end
-- If a permission is missing half-way, the added jobs have locators, so that a repeated push finds them.
if #newly > 0 then
  redis.call('HSET', KEYS.jobs, unpack(newly))
  count('pushed', #newly / 2)
end
if failure then return error(failure) end
return {exact_ms * 1000, 'OK'}
