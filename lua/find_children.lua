#!lua flags=no-writes,allow-oom
-- find_children: return how the children of a step have ended. Writes nothing.
--
-- ARGV[1]  token         of their group
-- ARGV[2]  first         int     the index of the first child to return
-- ARGV[3]  most          int     return at most this many
-- ARGV[4]  most_bytes    int     stop once they have this many bytes
-- Returns  {parent, key, total, left, outcome, id, ...}, or {} if there is no such group.
--          parent  the id of the parent; key: of its step
--          total   number of children; left: number of children that have not ended
--          outcome how the child has ended, '' if it has not: a word (`completed`, `refused`, `dead`, `cancelled`,
--                  `exists`, `duplicate`), and after a space the result (JSON), the reason, error type and error,
--                  or the id of the conflicting job
--          id      '' if the child has no id of its own

--- @include read_children
local group, first, most, most_bytes = KEYS['children:'] .. ARGV[1], tonumber(ARGV[2]),
  tonumber(ARGV[3]), tonumber(ARGV[4])
local found = redis.call('HMGET', group, 'parent', 'key', 'total', 'left')
if not found[1] then return {} end
read_children(found, group, first, math.min(first + most, tonumber(found[3])), most_bytes)
return found
