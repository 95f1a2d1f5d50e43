-- tell_others: tell the processes that tell_waiters has left, each once, and not which jobs have changed: it asks about all it
-- waits for, as one does that has just begun to listen. Up to 1,000 of them; the others ask once a minute. Needs tell beside it.
local function tell_others(ends)
  local told, many = {}, 0
  for processes in pairs(ends and ends.others or {}) do
    for process in string.gmatch(processes, '%S+') do
      if not told[process] then
        told[process], many = true, many + 1
        tell(ends.waiter .. process, 'subscribed')
        if many == 1000 then return end
      end
    end
  end
end
