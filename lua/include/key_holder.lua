-- key_holder: the job that holds a unique key; nil where the key is free. It is free too where its job holds it until its start
-- only, and a worker has that job in its hands: who pushes now is not to lose what they push to a run that has begun.
--
-- A key that was made something else by hand ends the script, before anything is written, and is named.
--
-- Returns {id}; where `replaces`, and the job waits, also where: `stream` and `entry`, or of a delayed one its `member` of
-- `due`; and `notes`, a flat list of what stays of it though all else is replaced. One that waits only to be cancelled does
-- not count as waiting, and a key that outlives its job is that of no waiting one. Then how many bytes of a job were read, of
-- a free key too. Needs field, entry_at, unpacked, stored, leases, holder, is_waiting, member, pushed_at, bytes_of, expect
-- beside it.
local function key_holder(places, jobs, delayed, unique, key, replaces, now_ms)
  local id = redis.pcall('GET', unique .. key)
  if type(id) == 'table' then
    expect('string', unique .. key)
    return error(id)
  end
  if not id then return nil, 0 end
  local found, located = {id = id}, redis.call('HGET', jobs, id)
  local place, entry, mark = string.match(located or '', '^(%S+) ?(%S*) ?(%S*)$')
  local is_ready = place and place ~= 'dead' and places[place]
  if not is_ready and place ~= 'delayed' then return found, 0 end
  local waits = not is_ready or is_waiting((holder(places[place], entry)))
  if waits and (not replaces or mark == 'cancelling') then return found, 0 end

  local fields = stored(places, delayed, id, located)
  local bytes = bytes_of(fields or {})
  if not fields or field(fields, 'id') ~= id then return found, bytes end
  if not waits then
    local is_over = field(fields, 'unique') == key and field(fields, 'unique_until') == 'start'
    return not is_over and found or nil, bytes
  end
  if field(fields, 'unique') ~= key and field(fields, 'window') ~= key then return found, bytes end
  found.notes = {}
  for _, name in ipairs({'nonce', 'queued_at', 'attempt', 'error', 'started_at'}) do
    local value = field(fields, name) or name == 'queued_at' and pushed_at(entry, now_ms)
    if value then found.notes[#found.notes + 1], found.notes[#found.notes + 2] = name, value end
  end
  if is_ready then
    found.stream, found.entry = places[place], entry
  else
    found.member = member(entry, id)
  end
  return found, bytes
end
