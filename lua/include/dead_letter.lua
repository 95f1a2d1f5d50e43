-- dead_letter: the other way that a job leaves a ready stream for good: to the dead letters, with the reason and what is
-- known of the failure. Its locator follows it, its unique key is free, and it is counted. Its push need not be remembered
-- (see finish): the locator says that its id is taken.
--
-- `keys` has jobs, dead, unique, stats. `notes` is a flat list of fields to add. An entry with more values than unpack
-- takes can only have been put in by hand; it is kept whole as JSON in one field, `entry`. Needs field, pushed_at, remove,
-- free, count beside it.
--
-- Returns whether it was moved: not where `dead` has no entry ids left, by somebody's hand; then nothing was written
local function dead_letter(keys, stream, entry, job, fields, notes, now_ms)
  local kept = {'id', job}
  local noted = {id = true, priority = true}
  for i = 1, #notes, 2 do noted[notes[i]] = true end
  if #fields > 1000 then
    kept[3], kept[4] = 'entry', cjson.encode(fields)
  else
    if not field(fields, 'queued_at') then kept[3], kept[4] = 'queued_at', pushed_at(entry, now_ms) end
    for i = 1, #fields, 2 do
      if not noted[fields[i]] then kept[#kept + 1], kept[#kept + 2] = fields[i], fields[i + 1] end
    end
  end
  kept[#kept + 1], kept[#kept + 2] = 'priority', string.match(stream, '}:ready:(.+)$')
  for i = 1, #notes do kept[#kept + 1] = notes[i] end

  local letter = redis.pcall('XADD', keys.dead, '*', unpack(kept))
  if type(letter) ~= 'string' then
    if string.find(letter.err, 'exhausted', 1, true) then return false end
    return error(letter)
  end
  redis.call('HSET', keys.jobs, job, 'dead ' .. letter)
  remove(stream, entry)
  free(keys.unique, field(fields, 'unique'), job)
  count(keys.stats, 'dead', 1)
  return true
end
