-- enqueue: add an entry to its ready stream. Where somebody has used up that stream's ids, by hand with the largest
-- there is, the lowest priority that has any takes it. Returns its place and entry id; nil: none has any.
local function enqueue(streams, number, fields)
  local entry = redis.pcall('XADD', streams[number], '*', unpack(fields))
  if type(entry) == 'string' then return string.match(streams[number], '}:(.+)$'), entry end
  for other = #streams, 1, -1 do
    if not string.find(entry.err, 'exhausted', 1, true) then return error(entry) end
    entry = redis.pcall('XADD', streams[other], '*', unpack(fields))
    if type(entry) == 'string' then return string.match(streams[other], '}:(.+)$'), entry end
  end
  return nil
end
