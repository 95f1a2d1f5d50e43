-- walk: go through the ready streams, from a stream and a place in it on, oldest first, up to 500 entries or
-- `most_bytes`. `read(stream, from, many)` reads some entries, each with its id first. `look_at(stream, one)`
-- returns the bytes of one, and true to stop after it. Returns where to go on: the number of the stream, 0 at the
-- end, and the place in it.
--- @include streams page
local function walk(number, from, most_bytes, read, look_at)
  local looked, bytes = 0, 0
  while streams[number] and looked < 500 and bytes < most_bytes do
    local stream, many = streams[number], math.max(1, page(looked, bytes)) -- they may be large
    local found = read(stream, from, many)
    if found.err and not string.find(found.err, 'invalid start ID', 1, true) then return error(found) end
    for _, one in ipairs(found) do -- none if it is an error: nothing comes after the largest entry id
      local read_bytes, stops = look_at(stream, one)
      looked, bytes, from = looked + 1, bytes + read_bytes, '(' .. one[1]
      if stops then return number, from end
    end
    if #found < many then number, from = number + 1, '-' end
  end
  return streams[number] and number or 0, from
end
