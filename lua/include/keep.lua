-- keep: keep a job that has just ended in `completed` or `cancelled`, if the queue keeps such. It never costs the end
-- of the job: if the stream has no entry ids left, nothing is kept. Nor is an entry without a name, of which nothing is
-- known. `ending` has `kept`, as that include returns it; `notes` is a flat list of what is known of its run.
--- @include field whole set_aside
local function keep(ending, state, priority, entry, job, fields, notes, now_ms)
  if not ending.kept[state] or not field(fields, 'name') then return end
  local noted = {'finished_at', whole(now_ms), unpack(notes)}
  set_aside(ending.kept[state], priority, entry, job, fields, noted, now_ms)
end
