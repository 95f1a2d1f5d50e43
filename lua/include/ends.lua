-- ends: what a call knows of waiting processes: whether any process waits for any job, how many got a notification, and
-- which are left for tell_others. If `waiters` is no hash, none gets one: jobs matter more.
local function ends()
  return {awaited = redis.call('TYPE', KEYS.waiters).ok == 'hash', told = 0, others = {}}
end
