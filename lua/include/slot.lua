-- slot: the key that remembers what ended at a time. One for each 5 s, so that none is large when it goes.
local function slot(ms)
  return KEYS['finished:'] .. string.format('%.0f', math.floor(ms / 5000))
end
