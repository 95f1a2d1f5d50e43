-- mark: how `finished:` names a push. Of an id that was made for the push, of 18 characters, the last 11: its 64 random
-- bits. Redis keeps 14 characters or less in half the memory. Any other whole; one with a nonce has a space.
local function mark(push)
  if #push == 18 and not string.find(push, ' ', 1, true) then return string.sub(push, 8) end
  return push
end
