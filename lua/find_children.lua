#!lua flags=no-writes,allow-oom
-- find_children: return how the children of a step have ended. Writes nothing.
--
-- ARGV[1]  token         of their group
-- ARGV[2]  first         int     the index of the first one to return
-- ARGV[3]  most          int     return at most this many
-- ARGV[4]  most_bytes    int     return no further once they have this many bytes
-- Returns  {} if there is no such group; else {parent, total, left, outcome, ...}: the id of the parent; how many children there are,
--          and how many have not ended; and for each how it has ended, '' if it has not: a word (`completed`, `refused`, `dead`,
--          `cancelled`, `exists`, `duplicate`), and after a space the result (JSON), the reason, error type and error, or the id of
--          the job in the way

--- @include whole
local group, first, most, most_bytes = KEYS['children:'] .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('HMGET', group, 'parent', 'total', 'left')
if not known[1] then return {} end
local found, bytes, until_index = {known[1], known[2], known[3]}, 0, math.min(first + most, tonumber(known[2]))
while first < until_index and bytes < most_bytes do
  local indexes = {}
  for i = first, math.min(first + 9, until_index - 1) do indexes[#indexes + 1] = whole(i) end -- they may be large
  for _, outcome in ipairs(redis.call('HMGET', group, unpack(indexes))) do
    found[#found + 1] = outcome or ''
    bytes = bytes + #(outcome or '')
  end
  first = first + #indexes
end
return found
