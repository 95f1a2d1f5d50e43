-- ends: a call's notes on waiting processes: whether any process waits for any job, how many got a notification,
-- and which are left for tell_others. If `waiters` is no hash, no process gets a notification, and the jobs still
-- end.
local function ends()
  return {awaited = redis.call('TYPE', KEYS.waiters).ok == 'hash', told = 0, others = {}}
end
