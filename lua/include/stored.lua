-- stored: the fields of a job at the place in its locator, and its priority if it is delayed; nil if there are
-- none. A delayed job that can't be read has one field, `error`, with the reason.
--- @include stream_of entry_at unpacked
local function stored(job, located)
  local place, entry = string.match(located, '^(%S+) ?(%S*)')
  if place ~= 'delayed' then return stream_of[place] and entry_at(stream_of[place], entry) end
  local packed = redis.call('HGET', KEYS.delayed, job)
  if not packed then return nil end
  local fields, priority = unpacked(packed)
  if fields then return fields, priority end
  return {'error',
    'changed outside redisjobs: its value in `delayed` is no JSON list of priority, names and values'}, 'normal'
end
