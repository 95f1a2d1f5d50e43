-- hand_back: pass leased entries of a stream to the consumer `released`, from which claim takes before it reads anything
-- new: at once, and in their place. From then on they count as delivered `deliveries` times. An entry that nobody holds,
-- by somebody's hand, is leased again so. Returns those that are still there: of others the server forgets the lease. `to`
-- is another consumer for them: `parked` has those that may not start, until unpark passes them on; `alone` those for a worker
-- that runs nothing else. `idle_ms` is for how long they have been waiting already.
local function hand_back(stream, deliveries, entries, to, idle_ms)
  local arguments, options = {unpack(entries)}, {'IDLE', idle_ms or 0, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID'}
  for _, option in ipairs(options) do arguments[#arguments + 1] = option end
  return redis.call('XCLAIM', stream, 'workers', to or 'released', 0, unpack(arguments))
end
