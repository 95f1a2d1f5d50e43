-- tell_waiters: tell the processes that wait for a job that it has changed. To tell many takes its time: once 1,000 were told
-- in a call, the others are left to tell_others, which a script that may change many jobs calls last. `ends` is as ends has it.
-- Needs tell beside it.
local function tell_waiters(ends, job, processes)
  if ends.told >= 1000 then
    ends.others[processes] = true
    return
  end
  for process in string.gmatch(processes, '%S+') do
    ends.told = ends.told + 1
    tell(ends.waiter .. process, 'changed ' .. job)
  end
end
