-- forget: remove a worker's consumers, which must hold nothing: their pending jobs would be lost with them.
local function forget(streams, worker)
  for _, stream in ipairs(streams) do
    local held = leases(stream, '-', '+', 1, worker)
    if held and #held == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', worker) end
  end
end
