-- ends: what conclude takes. Where somebody has put something else in the place of `waiters`, nobody waits: to be told is not
-- worth a job.
local function ends(result, outcome, progress, waiters, waiter)
  local awaited = redis.call('TYPE', waiters).ok == 'hash'
  return {result = result, outcome = outcome, progress = progress, waiters = waiters, waiter = waiter, awaited = awaited}
end
