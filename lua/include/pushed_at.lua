-- pushed_at: when an entry was pushed, in ms, as its id tells; now, where somebody wrote an id that is later, or none.
local function pushed_at(entry, now_ms)
  return string.format('%.0f', math.min(tonumber(string.match(entry, '^%d+') or now_ms), now_ms))
end
