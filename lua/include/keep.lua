-- keep: keep a job that has just ended, if the queue keeps such, with `notes`, a flat list of what is known of its run. It
-- never costs the end of the job: nothing is kept if the stream has no entry ids left, or if the entry has no name.
--- @include field whole set_aside
local function keep(ending, state, priority, entry, job, fields, notes, now_ms)
  if not ending.kept[state] or not field(fields, 'name') then return end
  local noted = {'finished_at', whole(now_ms), unpack(notes)}
  set_aside(ending.kept[state], priority, entry, job, fields, noted, now_ms)
end
