-- checked: the reply of a redis.pcall that reads a key. If the key has another type, the error names it.
--- @include expect
local function checked(kind, key, reply)
  if type(reply) == 'table' and reply.err then
    expect(kind, key)
    return error(reply)
  end
  return reply
end
