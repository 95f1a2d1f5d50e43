-- answered: the answer that a call gave within the last minute, or nil. The call is repeated because its reply was
-- lost. `words` are the answers of such calls; the caller remembers `<word> <nonce>` by `remember`.
--- @include recent_ends
local function answered(nonce, now_ms, words)
  local marks = {}
  for i, word in ipairs(words) do marks[i] = word .. ' ' .. nonce end
  local _, known = recent_ends(now_ms, now_ms, now_ms, unpack(marks))
  return known and words[next(known)]
end
