-- ends: what conclude takes; `told` and `others` are tell_waiters' and tell_others'. Where somebody has put something else in the
-- place of `waiters`, nobody waits: to be told is not worth a job.
local function ends(result, outcome, progress, waiters, waiter)
  local awaited = redis.call('TYPE', waiters).ok == 'hash'
  local keys = {result = result, outcome = outcome, progress = progress, waiters = waiters, waiter = waiter}
  keys.awaited, keys.told, keys.others = awaited, 0, {}
  return keys
end
