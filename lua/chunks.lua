#!lua flags=no-writes,allow-oom
-- chunks: return chunks that a job has emitted, after an id. Writes nothing.
--
-- ARGV[1]  job           its id
-- ARGV[2]  began         the first part of the id to go on from, ms; '0' for the first chunk. An id of an earlier
--                        job with this id counts as the first
-- ARGV[3]  after         int     its second part
-- ARGV[4]  most_bytes    int     look at no further chunk once this much is to be returned
-- Returns  {more, id, run, kind, data, ...}: 1 if there are more chunks; and each chunk. Or, if the next one is
--          not kept any more, {-1, lost, id}: how many are lost, and the id to go on from

--- @include expect field
local job, began, after, most_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = KEYS['chunks:'] .. job

expect('stream', key)
local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
if not oldest then return {0} end
local now_began, first = string.match(oldest[1], '^(%d+)-(%d+)$')
if began ~= now_began then after = 0 end
local lost = tonumber(first) - 1 - after
if lost > 0 then return {-1, lost, string.format('%s-%.0f', now_began, tonumber(first) - 1)} end
local found, bytes = {0}, 0
local start = string.format('(%s-%.0f', now_began, after)
for _, entry in ipairs(redis.call('XRANGE', key, start, '+', 'COUNT', 1001)) do
  local run, json = field(entry[2], 'run'), field(entry[2], 'json')
  local data = json or field(entry[2], 'bytes')
  if run and data then
    if #found > 4000 or bytes > 0 and bytes + #data > most_bytes then
      found[1] = 1
      break
    end
    bytes = bytes + #data
    for _, value in ipairs({entry[1], run, json and 'json' or 'bytes', data}) do found[#found + 1] = value end
  end
end
return found
