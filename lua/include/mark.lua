-- mark: by what `finished:` has a push. An id of ours, made for its push, by the last 11 of its 18 characters, which are its
-- 64 random bits: a server keeps up to 14 in half the memory. (Byte 17 is a space where a nonce comes before an id of one
-- character.) Any other whole.
local function mark(push)
  if #push == 18 and string.byte(push, 17) ~= 32 then return string.sub(push, 8) end
  return push
end
