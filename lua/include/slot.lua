-- slot: the key that remembers what ended at a time. Each is for a short while, so that none is large when it goes.
local function slot(ms)
  --- @include times
  return KEYS['finished:'] .. math.floor(ms / slot_ms)
end
