-- read_children: append to a list how the children of a group have ended, from the index `first` on and before
-- `last`. Each child has two values: its record, '' if it has not ended, and its id, '' if it has none of its own.
-- Stops once these have `most` bytes. Returns their number of bytes.
--- @include whole
local function read_children(list, group, first, last, most)
  local bytes = 0
  while first < last and bytes < most do
    local names = {}
    for i = first, math.min(first + 9, last - 1) do -- they may be large
      names[#names + 1], names[#names + 2] = whole(i), 'id ' .. whole(i)
    end
    for _, text in ipairs(redis.call('HMGET', group, unpack(names))) do
      list[#list + 1] = text or ''
      bytes = bytes + #(text or '')
    end
    first = first + #names / 2
  end
  return bytes
end
