-- walk_back: go through the entries of a stream that come before `after`, newest first; '' begins at the newest.
-- It ends after 500 entries or about 1 MB, or when `look_at(entry, fields)` returns true. Returns where to go on;
-- '' at the end.
--- @include is_older page bytes_of
local function walk_back(stream, after, look_at)
  local looked, bytes, many = 0, 0, 1
  local first = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  while many > 0 do
    -- Redis would walk the whole stream to find out that nothing comes before the first.
    if after ~= '' and not (first and is_older(first[1], after)) then return '' end
    local found = redis.pcall('XREVRANGE', stream, after == '' and '+' or '(' .. after, '-', 'COUNT', many)
    if found.err then
      if string.find(found.err, 'invalid %a+ ID') then return '' end -- nothing comes before the smallest possible
      return error(found)
    end
    for _, entry in ipairs(found) do
      looked, bytes, after = looked + 1, bytes + bytes_of(entry[2]), entry[1]
      if look_at(entry[1], entry[2]) then return after end
    end
    if #found < many then return '' end
    many = page(looked, bytes)
  end
  return after
end
