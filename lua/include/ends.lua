-- ends: what a call knows of waiting processes, for conclude, tell_waiters and tell_others: whether any process waits
-- for any job, how many were told, and which were left for the end. If `waiters` is no hash, none is told: jobs matter
-- more.
local function ends()
  return {awaited = redis.call('TYPE', KEYS.waiters).ok == 'hash', told = 0, others = {}}
end
