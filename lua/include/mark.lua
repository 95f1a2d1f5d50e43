-- mark: by what `finished:` has a push. One of an id that was made for it, of 18 characters, by the last 11 of these, which are
-- its 64 random bits: a server keeps up to 14 in half the memory. Any other whole: one with a nonce, which has a space after
-- it, may have 18 characters too.
local function mark(push)
  if #push == 18 and not string.find(push, ' ', 1, true) then return string.sub(push, 8) end
  return push
end
