-- enqueue: add an entry to its ready stream. Where somebody has used up that stream's ids, by hand with the largest
-- there is, the next stream that has any takes it. Returns its place and entry id; nil: none has any.
local function enqueue(streams, number, fields)
  for _, other in ipairs(({{1, 2, 3}, {2, 3, 1}, {3, 2, 1}})[number]) do
    local entry = redis.pcall('XADD', streams[other], '*', unpack(fields))
    if type(entry) == 'string' then return string.match(streams[other], '}:(.+)$'), entry end
    if not string.find(entry.err, 'exhausted', 1, true) then return error(entry) end
  end
  return nil
end
