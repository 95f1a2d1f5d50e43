-- pushed_at: when an entry was pushed, in ms, by its id; now, if the id is in the future or no entry id.
local function pushed_at(entry, now_ms)
  return string.format('%.0f', math.min(tonumber(string.match(entry, '^%d+') or now_ms), now_ms))
end
