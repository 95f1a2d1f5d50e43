-- dead_letter: the other way that a job leaves a ready stream for good: to the dead letters, with the reason and what is
-- known of the failure. Its locator follows it, its unique key is free, and it is counted. Its push need not be remembered
-- (see finish): the locator says that its id is taken.
--
-- `keys` has jobs, dead, unique, stats, ends. `notes` is a flat list of fields to add. Needs field, set_aside, remove, free,
-- count, conclude beside it.
--
-- Returns whether it was moved: not where `dead` has no entry ids left, by somebody's hand; then nothing was written
local function dead_letter(keys, stream, entry, job, fields, notes, now_ms)
  local priority = string.match(stream, '}:ready:(.+)$')
  if not set_aside(keys.jobs, keys.dead, priority, entry, job, fields, notes, now_ms) then return false end
  remove(stream, entry)
  free(keys.unique, field(fields, 'unique'), job)
  count(keys.stats, 'dead', 1)
  local why = (field(notes, 'error_type') or '') .. ' ' .. (field(notes, 'error') or '')
  conclude(keys.ends, job, 'dead', why, field(fields, 'keep_result'))
  return true
end
