-- identify: the id of an entry's job: the one in the entry; of one without an id its entry id, or, if another job has
-- that, entry and place, as `1732-0@low`. `places` has the stream of each place.
--
-- Returns the id; the mark in its locator, nil if that does not point here; and how an operator can name the job
--- @include field entry_at
local function identify(places, place, entry, fields)
  local here, suffix = place .. ' ' .. entry, '@' .. place
  local said = field(fields, 'id')
  if said == '' then said = nil end
  local ids = {said or entry}
  for more = 1, 4 do ids[1 + more] = entry .. string.rep(suffix, more) end
  local located = redis.call('HMGET', KEYS.jobs, unpack(ids))
  for i, id in ipairs(ids) do
    if located[i] == here then return id, '', id end
    local mark = located[i] and string.match(located[i], '^(%S+ %S+) ') == here and string.match(located[i], '%S+$')
    if mark then return id, mark, id end
  end

  -- Of two entries with one entry id, in two streams, neither located, the one of the higher priority has it.
  local taken = located[1]
  for _, above in ipairs(said and {} or {'high', 'normal', 'low'}) do
    if above == place or taken then break end
    local twin = places[above] and entry_at(places[above], entry)
    taken = twin and (field(twin, 'id') or '') == ''
  end
  local at = taken and 2 or 1
  while at < #ids and located[at] do at = at + 1 end
  local id = ids[at]
  return id, nil, said and ids[2] or id
end
