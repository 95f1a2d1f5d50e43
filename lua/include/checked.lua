-- checked: a reply of redis.pcall to a command that reads a key. Where that was made something else by hand, the error names
-- it. Needs expect beside it.
local function checked(kind, key, reply)
  if type(reply) == 'table' and reply.err then
    expect(kind, key)
    return error(reply)
  end
  return reply
end
