#!lua flags=no-writes,allow-oom
-- find_children: return how the children of a step have ended. Writes nothing.
--
-- ARGV[1]  token         of their group
-- ARGV[2]  first         int     the index of the first one to return
-- ARGV[3]  most          int     return at most this many
-- ARGV[4]  most_bytes    int     return no further once they have this many bytes
-- Returns  {} if there is no such group; else {parent, key, total, left, ids, outcome, ...}: the id of the parent, and the key of its
--          step; how many children there are, and how many have not ended; {index, id, ...} for those that have an id of their own;
--          and for each how it has ended, '' if it has not: a word (`completed`, `refused`, `dead`, `cancelled`, `exists`,
--          `duplicate`), and after a space the result (JSON), the reason, error type and error, or the id of the job in the way

--- @include whole
local group, first, most, most_bytes = KEYS['children:'] .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('HMGET', group, 'parent', 'key', 'total', 'left')
if not known[1] then return {} end
local ids, bytes, until_index = {}, 0, math.min(first + most, tonumber(known[3]))
local found = {known[1], known[2] or '', known[3], known[4], ids}
while first < until_index and bytes < most_bytes do
  local names = {}
  for i = first, math.min(first + 9, until_index - 1) do -- they may be large
    names[#names + 1], names[#names + 2] = whole(i), 'id ' .. whole(i)
  end
  local some = redis.call('HMGET', group, unpack(names))
  for i = 1, #names, 2 do
    found[#found + 1] = some[i] or ''
    if some[i + 1] then ids[#ids + 1], ids[#ids + 2] = names[i], some[i + 1] end
    bytes = bytes + #(some[i] or '') + #(some[i + 1] or '')
  end
  first = first + #names / 2
end
return found
