-- key_holder: the job that holds a unique key; nil if the key is free. A key that a job holds only until it starts
-- is also free if a worker has that job, or if it is suspended or has saved steps. A run that has begun must not
-- swallow a new push.
--
-- Returns {id}. With `replaces`, a waiting job also has `stream` and `entry`, or the `member` of `due` of a
-- delayed job, and `notes`, a flat list of the fields that it keeps when it is replaced. Then returns the number
-- of bytes of jobs that were read, for a free key too.
--
-- A job does not count as waiting if its cancel was requested, or if it no longer has this key. A job that has
-- begun does not either, because its saved steps don't fit other parameters. A child does not, because its parent
-- waits for it.
--- @include checked stream_of is_waiting holder stored bytes_of field pushed_at member with_history
local function key_holder(key, replaces, now_ms)
  local id = checked('string', KEYS['unique:'] .. key, redis.pcall('GET', KEYS['unique:'] .. key))
  if not id then return nil, 0 end
  local found, located = {id = id}, redis.call('HGET', KEYS.jobs, id)
  local place, entry, mark = string.match(located or '', '^(%S+) ?(%S*) ?(%S*)$')
  local is_ready = place and place ~= 'dead' and stream_of[place]
  if not is_ready and place ~= 'delayed' then return found, 0 end
  local waits = mark ~= 'suspended' and (not is_ready or is_waiting((holder(stream_of[place], entry))))
    and redis.call('TYPE', KEYS['steps:'] .. id).ok == 'none'
  if waits and (not replaces or mark == 'cancelling') then return found, 0 end

  local fields = stored(id, located)
  local bytes = bytes_of(fields or {})
  if not fields or field(fields, 'id') ~= id then return found, bytes end
  if not waits then
    local is_over = field(fields, 'unique') == key and field(fields, 'unique_until') == 'start'
    return not is_over and found or nil, bytes
  end
  local has_key = field(fields, 'unique') == key or field(fields, 'window') == key
  if not has_key or field(fields, 'child_of') then return found, bytes end
  found.notes = {}
  for _, name in ipairs({'nonce', 'queued_at', 'attempt', 'error', 'started_at'}) do
    local value = field(fields, name) or name == 'queued_at' and pushed_at(entry, now_ms)
    if value then found.notes[#found.notes + 1], found.notes[#found.notes + 2] = name, value end
  end
  found.notes = with_history(found.notes, fields, place .. ' ' .. entry)
  if is_ready then
    found.stream, found.entry = stream_of[place], entry
  else
    found.member = member(entry, id)
  end
  return found, bytes
end
