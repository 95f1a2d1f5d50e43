-- slot: the key of the set that remembers what ends now. One for each 5 s, so that none is large when it expires.
local function slot(finished, ms)
  return finished .. string.format('%.0f', math.floor(ms / 5000))
end
