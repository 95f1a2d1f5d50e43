-- stored: the fields of a job, and its priority if it is delayed, where its locator says it is; nil if there are none. Of a
-- delayed job that can't be read, by somebody's hand, they are an `error` that says so. Needs entry_at, unpacked beside it.
local function stored(places, delayed, job, located)
  local place, entry = string.match(located, '^(%S+) ?(%S*)')
  if place ~= 'delayed' then return places[place] and entry_at(places[place], entry) end
  local packed = redis.call('HGET', delayed, job)
  if not packed then return nil end
  local fields, priority = unpacked(packed)
  if fields then return fields, priority end
  return {'error', 'put in by hand: its value in `delayed` is no JSON list of priority, names and values'}, 'normal'
end
