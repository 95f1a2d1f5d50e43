-- dead_letter: move a job from a ready stream to the dead letters. Its locator follows it, its unique key becomes free,
-- and it is counted. Its push need not be remembered (see finish), as the locator still has its id. `notes` is a flat
-- list of fields to add; for `ends` see conclude.
--- @include set_aside remove free field count conclude
local function dead_letter(ends, stream, entry, job, fields, notes, now_ms)
  local priority = string.match(stream, '}:ready:(.+)$')
  assert(set_aside(KEYS.dead, priority, entry, job, fields, notes, now_ms), KEYS.dead .. ' has no entry ids left')
  remove(stream, entry)
  free(field(fields, 'unique'), job)
  count('dead', 1)
  local why = (field(notes, 'error_type') or '') .. ' ' .. (field(notes, 'error') or '')
  conclude(ends, job, 'dead', why, field(fields, 'keep_result'))
end
