-- ends: what conclude takes. Where somebody has put something else in the place of `waiters` the script ends here, before
-- anything is written. Needs expect beside it.
local function ends(result, outcome, progress, waiters, waiter)
  local awaited = redis.call('EXISTS', waiters) == 1
  if awaited then expect('hash', waiters) end
  return {result = result, outcome = outcome, progress = progress, waiters = waiters, waiter = waiter, awaited = awaited}
end
