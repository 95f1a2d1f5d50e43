-- owns: does this worker hold this job by this very lease? Proof: the pending entry names the worker
-- and the delivery count, and the entry is this job's (after a failover an entry id may come again
-- for another job). Needs field, entry_at, identify beside it.
--
-- Returns nil (no: also where there is no group), or how the locator knows the job, and the job's id:
--   'here'        it points at this entry
--   'cancelling'  so it does, and a cancel was asked for while the job ran
--   'stray'       it does not: put in by hand, or a lost locator; the entry's own id is the proof. Where another job
--                 has that id, this one is told apart by its stream from here on
local function owns(places, stream, jobs, worker, entry, deliveries, job)
  -- As leases asks, but by itself: a script does this for each of hundreds of jobs.
  local answer = redis.pcall('XPENDING', stream, 'workers', entry, entry, 1, worker)
  local pending = answer[1]
  if answer.err and not string.find(answer.err, 'NOGROUP', 1, true) then return error(answer) end
  if not pending or pending[4] ~= tonumber(deliveries) then return nil end

  local located = redis.call('HGET', jobs, job)
  local place = string.match(stream, '}:(.+)$')
  local here = place .. ' ' .. entry
  if located == here or located == here .. ' alone' then return 'here', job end
  if located == here .. ' cancelling' then return 'cancelling', job end

  local fields = entry_at(stream, entry)
  local said = fields and field(fields, 'id') or ''
  if not fields or said ~= job and (said ~= '' or string.match(job, '^[^@]+') ~= entry) then return nil end
  local id, mark = identify(places, jobs, place, entry, fields)
  if not mark then return 'stray', id end
  return mark == 'cancelling' and mark or 'here', id
end
