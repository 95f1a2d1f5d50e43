-- tell_waiters: notify the processes that wait for a job of its change, up to 1,000 in a call. The rest is left to
-- tell_others, which a script that changes many jobs calls last. For `ends` see the include of that name.
local function tell_waiters(ends, job, processes)
  if ends.told >= 1000 then
    ends.others[processes] = true
    return
  end
  for process in string.gmatch(processes, '%S+') do
    ends.told = ends.told + 1
    redis.pcall('PUBLISH', KEYS['waiter:'] .. process, 'changed ' .. job)
  end
end
