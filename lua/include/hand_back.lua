-- hand_back: pass entries of a stream to the consumer `to`, or to `released`, which claim serves before new jobs.
-- They keep their order, and count as delivered `deliveries` times. `idle_ms` is how long they have waited
-- already. FORCE also takes an entry whose lease was lost outside redisjobs. Returns the entries that exist; the
-- leases of others are gone.
--- @include remove
local function hand_back(stream, deliveries, entries, to, idle_ms)
  local arguments, options = {unpack(entries)}, {'IDLE', idle_ms or 0, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID'}
  for _, option in ipairs(options) do arguments[#arguments + 1] = option end
  local there = redis.call('XCLAIM', stream, 'workers', to or 'released', 0, unpack(arguments))
  if #there < #entries then
    local known = {}
    for _, entry in ipairs(there) do known[entry] = true end
    for _, entry in ipairs(entries) do
      if not known[entry] then remove(stream, entry) end
    end
  end
  return there
end
