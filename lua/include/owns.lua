-- owns: whether a worker holds a job by this lease: the pending entry has the worker and the delivery count, and the entry
-- is this job's. nil if not, else the mark of its locator, and for how many ms the worker has had it. An entry of this id
-- whose job is elsewhere becomes a dead letter.
--- @include leases mark_of entry_at field reject
local function owns(worker, stream, entry, deliveries, job, now_ms)
  local pending = (leases(stream, entry, entry, 1, worker) or {})[1]
  if not pending or pending[4] ~= deliveries then return nil end
  local mark, is_located = mark_of(job, string.match(stream, '[^:]+$'), entry)
  if mark and is_located then return mark, pending[3] end
  local fields = entry_at(stream, entry)
  if not fields or field(fields, 'id') ~= job then return nil end
  if mark then return mark, pending[3] end
  reject(stream, entry, fields, 'no job: the job ' .. job .. ' is elsewhere', now_ms)
  return nil
end
