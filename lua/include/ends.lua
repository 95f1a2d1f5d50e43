-- ends: what conclude takes; `told` and `others` are tell_waiters' and tell_others'. Where `waiters` is no hash, no process gets a
-- notification: a job is worth more than that.
local function ends(result, outcome, progress, waiters, waiter)
  local awaited = redis.call('TYPE', waiters).ok == 'hash'
  local keys = {result = result, outcome = outcome, progress = progress, waiters = waiters, waiter = waiter}
  keys.awaited, keys.told, keys.others = awaited, 0, {}
  return keys
end
