-- first_id: the smallest entry id of a stream; nil if it is empty.
local function first_id(stream)
  local first = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return first and first[1]
end
