-- remember: keep ids of jobs that ended, so that a push repeated after a lost reply adds nothing.
-- One set for each 5 s, so that none is large when it expires; gone when no push can be repeated any more.
-- push looks in those of the last minute.
local function remember(finished, now_ms, ids)
  if #ids == 0 then return end
  local key = finished .. string.format('%.0f', math.floor(now_ms / 5000))
  redis.call('SADD', key, unpack(ids))
  redis.call('PEXPIRE', key, 65000)
end
