-- owns: does this worker hold this job by this very lease? Proof: the pending entry names the worker
-- and the delivery count, and the entry is this job's (after a failover an entry id may come again
-- for another job).
--
-- Returns nil (no: also where there is no group), or how the locator knows the job, and the job's id:
--   'here'        it points at this entry
--   'cancelling'  so it does, and a cancel was asked for while the job ran
--   'stray'       it does not: an entry put in by hand, or a lost locator; the entry's own id is the proof.
--                 Where another job has that id, this one goes by its entry id from here on
local function owns(stream, jobs, worker, entry, deliveries, job)
  -- As leases asks, but by itself: a script does this for each of hundreds of jobs.
  local answer = redis.pcall('XPENDING', stream, 'workers', entry, entry, 1, worker)
  local pending = answer[1]
  if answer.err and not string.find(answer.err, 'NOGROUP', 1, true) then return error(answer) end
  if not pending or pending[4] ~= tonumber(deliveries) then return nil end

  local located = redis.call('HGET', jobs, job)
  local here = string.match(stream, '}:(.+)$') .. ' ' .. entry
  if located == here then return 'here', job end
  if located == here .. ' cancelling' then return 'cancelling', job end

  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return nil end
  local id = entry
  for i = 1, #found[2], 2 do
    if found[2][i] == 'id' then id = found[2][i + 1] end
  end
  if id == job then return 'stray', located and entry or job end
  return nil
end
