-- remember: keep ids of jobs that ended, so that a push repeated after a lost reply adds nothing.
-- One set a minute, each gone two minutes after its last id; push looks in this minute's and the last one's.
local function remember(finished, now_ms, ids)
  if #ids == 0 then return end
  local key = finished .. string.format('%.0f', math.floor(now_ms / 60000))
  redis.call('SADD', key, unpack(ids))
  redis.call('PEXPIRE', key, 120000)
end
