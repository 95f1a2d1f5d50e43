-- remember: keep, in the slot of now, the pushes of jobs that ended: one repeated after a lost reply, or late, adds
-- nothing then. Gone when no push can come any more; push looks in the slots of the last minute at most.
local function remember(slot_key, ...)
  if select('#', ...) == 0 then return end
  redis.call('SADD', slot_key, ...)
  redis.call('PEXPIRE', slot_key, 65000)
end
