-- mark: the name of a push in `finished:`. For an id of 18 characters, which was made for the push, it is the last
-- 11. These are its 64 random bits, and Redis keeps 14 characters or less in half the memory. Any other name stays
-- whole; a nonce adds a space.
local function mark(push)
  if #push == 18 and not string.find(push, ' ', 1, true) then return string.sub(push, 8) end
  return push
end
