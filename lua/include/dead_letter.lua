-- dead_letter: move a job from a ready stream to the dead letters, with `notes`, a flat list of fields. Its unique
-- key becomes free. The push is not remembered, because the locator still has its id. Returns whether the job's
-- end is kept.
--- @include set_aside with_history remove free field count conclude end_child
local function dead_letter(ends, stream, entry, job, fields, notes, now_ms)
  local priority = string.match(stream, '}:ready:(.+)$')
  local noted = with_history(notes, fields, priority .. ' ' .. entry)
  assert(set_aside(KEYS.dead, priority, entry, job, fields, noted, now_ms), KEYS.dead .. ' has no entry ids left')
  remove(stream, entry)
  free(field(fields, 'unique'), job)
  count('dead', 1)
  local error_type, text = field(notes, 'error_type') or '', field(notes, 'error') or ''
  local reason = string.gsub(field(notes, 'reason') or '', ' ', '_')
  end_child(fields, 'dead', table.concat({error_type, reason, text}, ' '), now_ms)
  return conclude(ends, job, 'dead', error_type .. ' ' .. text, field(fields, 'keep_result'))
end
