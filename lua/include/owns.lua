-- owns: does this worker hold this job by this very lease? Proof: the pending entry names the worker
-- and the delivery count, and the entry is this job's (after a failover an entry id may come again
-- for another job).
--
-- Returns nil (no), or how the locator knows the job:
--   'here'        it points at this entry
--   'cancelling'  so it does, and a cancel was asked for while the job ran
--   'stray'       it does not: an entry put in by hand, or a lost locator; the entry's own id is the proof
local function owns(stream, jobs, worker, entry, deliveries, job)
  local pending = redis.call('XPENDING', stream, 'workers', entry, entry, 1, worker)[1]
  if not pending or pending[4] ~= tonumber(deliveries) then return nil end

  local located = redis.call('HGET', jobs, job)
  local here = string.match(stream, '}:(.+)$') .. ' ' .. entry
  if located == here then return 'here' end
  if located == here .. ' cancelling' then return 'cancelling' end

  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return nil end
  local id = entry
  for i = 1, #found[2], 2 do
    if found[2][i] == 'id' then id = found[2][i + 1] break end
  end
  if id == job then return 'stray' end
  return nil
end
