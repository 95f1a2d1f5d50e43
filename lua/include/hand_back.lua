-- hand_back: pass entries of a stream to the consumer `released`, which claim serves before anything new, or to `to`. They
-- keep their order, and count as delivered `deliveries` times. FORCE leases an entry again that lost its lease outside
-- redisjobs. `idle_ms` is how long they have waited already. Returns those that exist; of others Redis drops the lease.
local function hand_back(stream, deliveries, entries, to, idle_ms)
  local arguments, options = {unpack(entries)}, {'IDLE', idle_ms or 0, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID'}
  for _, option in ipairs(options) do arguments[#arguments + 1] = option end
  return redis.call('XCLAIM', stream, 'workers', to or 'released', 0, unpack(arguments))
end
