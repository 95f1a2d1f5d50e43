-- set_aside: copy an entry's job to `aside` (`dead`, `completed` or `cancelled`), with `notes`, a flat list of
-- fields, and point its locator there. An entry with more values than unpack takes is kept whole, as JSON in one
-- field, `entry`. A dead letter is listed in its group. Returns false if the stream has no entry ids left; then
-- nothing was written.
--- @include field pushed_at kind_of group_in
local function set_aside(aside, priority, entry, job, fields, notes, now_ms)
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
  redis.call('HSET', KEYS.jobs, job, string.match(aside, '[^:]+$') .. ' ' .. there)
  if aside == KEYS.dead then group_in(kind_of(notes), there, now_ms) end
  return true
end
