-- stored: the fields of a job, and its priority if it is delayed, where its locator says it is; nil if there are none.
-- Needs entry_at beside it.
local function stored(places, delayed, job, located)
  local place, entry = string.match(located, '^(%S+) ?(%S*)')
  if place ~= 'delayed' then return places[place] and entry_at(places[place], entry) end
  local packed = redis.call('HGET', delayed, job)
  if not packed then return nil end
  local fields = cjson.decode(packed)
  return fields, table.remove(fields, 1)
end
