-- keep: keep a job that has just ended, if the queue keeps such jobs, with `notes`, a flat list of facts about its
-- run. It never fails: it keeps nothing if the stream has no entry ids left, or if the entry has no name.
--- @include field whole set_aside
local function keep(ending, state, priority, entry, job, fields, notes, now_ms)
  if not ending.kept[state] or not field(fields, 'name') then return end
  local noted = {'finished_at', whole(now_ms), unpack(notes)}
  set_aside(ending.kept[state], priority, entry, job, fields, noted, now_ms)
end
