-- set_aside: keep the job of an entry in a stream of such as nobody waits for: `dead`, `completed`, `cancelled`. Its locator
-- follows it; `jobs` is nil where that is another job's. `notes` is a flat list of fields to add. An entry with more values
-- than unpack takes can only have been put in by hand; it is kept whole as JSON in one field, `entry`. The entry itself is
-- left where it is. Needs field, pushed_at beside it.
--
-- Returns whether it was: not where the stream has no entry ids left, by somebody's hand; then nothing was written
local function set_aside(jobs, aside, priority, entry, job, fields, notes, now_ms)
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
  kept[#kept + 1], kept[#kept + 2] = 'priority', priority
  for i = 1, #notes do kept[#kept + 1] = notes[i] end

  local there = redis.pcall('XADD', aside, '*', unpack(kept))
  if type(there) ~= 'string' then
    if string.find(there.err, 'exhausted', 1, true) then return false end
    return error(there)
  end
  if jobs then redis.call('HSET', jobs, job, string.match(aside, '[^:]+$') .. ' ' .. there) end
  return true
end
