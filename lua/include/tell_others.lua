-- tell_others: notify the processes that tell_waiters has left over, once each, so that they ask about all their
-- jobs. Up to 1,000 are notified; the rest ask once a minute anyway.
local function tell_others(ends)
  local told, many = {}, 0
  for processes in pairs(ends and ends.others or {}) do
    for process in string.gmatch(processes, '%S+') do
      if not told[process] then
        told[process], many = true, many + 1
        redis.pcall('PUBLISH', KEYS['waiter:'] .. process, 'subscribed')
        if many == 1000 then return end
      end
    end
  end
end
