-- entry_at: the fields of a stream's entry; nil if there is no such entry, or if `entry` is not an entry id in
-- Redis' own format.
local function entry_at(stream, entry)
  local found = redis.pcall('XRANGE', stream, entry, entry)
  if found.err then
    if string.find(found.err, 'Invalid stream ID', 1, true) then return nil end
    return error(found)
  end
  return found[1] and found[1][1] == entry and found[1][2] or nil
end
