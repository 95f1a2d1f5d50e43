-- forget: remove a worker's consumers, unless they hold jobs. Those jobs would be lost with them.
--- @include streams leases
local function forget(worker)
  for _, stream in ipairs(streams) do
    local held = leases(stream, '-', '+', 1, worker)
    if held and #held == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', worker) end
  end
  redis.pcall('XGROUP', 'DELCONSUMER', KEYS.inbox, 'workers', worker) -- a read of it is only a hint
end
