-- checked: a reply of redis.pcall to a command that reads a key. Where the key has another type, the error names
-- it. Needs expect beside it.
local function checked(kind, key, reply)
  if type(reply) == 'table' and reply.err then
    expect(kind, key)
    return error(reply)
  end
  return reply
end
