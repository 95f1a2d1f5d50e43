-- keep: let a job that has just ended stay in sight, where the queue keeps such: as an entry of `completed` or `cancelled`.
-- That is not worth a job: where the stream has no entry ids left, by somebody's hand, nothing stays of it. An entry
-- without a name, of which nothing is known, is not kept.
--
-- `keys` has kept: the streams of those states that are kept; and jobs, nil where the locator is another job's. `notes` is a
-- flat list of what is known of its run. Needs whole, field, set_aside beside it.
local function keep(keys, state, priority, entry, job, fields, notes, now_ms)
  if not keys.kept[state] or not field(fields, 'name') then return end
  local noted = {'finished_at', whole(now_ms), unpack(notes)}
  set_aside(keys.jobs, keys.kept[state], priority, entry, job, fields, noted, now_ms)
end
