-- slot: the key that remembers the jobs that ended at a time. Each key covers a few seconds, so that none is large
-- when it goes.
local function slot(ms)
  --- @include times
  return KEYS['finished:'] .. math.floor(ms / slot_ms)
end
