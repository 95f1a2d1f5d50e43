-- owns: whether a worker holds a job by this lease: the pending entry has this worker and delivery count, and
-- belongs to this job. Returns nil if not, else the mark of the locator, and how many ms the worker has had the
-- job. If the job with this id is elsewhere, the entry becomes a dead letter.
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
