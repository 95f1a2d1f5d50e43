-- identify: the id that the job of an entry goes by: the one that the entry says, or its entry id where it says none.
-- An id that another job has is told apart by the stream: `1732-0@low`. `place` is as in the locator, and `places`
-- has the key of each place. Where all of five ids were given to other jobs, which somebody did on purpose, the last is
-- taken over: what had it goes by its place from then on. Needs field, entry_at beside it.
--
-- Returns the id; the mark that the locator has beside it, nil if the locator does not point here; and how to name
-- the job to an operator: by that id, or by its place where the id is not looked up
local function identify(places, jobs, place, entry, fields)
  local here, suffix = place .. ' ' .. entry, '@' .. place
  local said = field(fields, 'id')
  if said == '' then said = nil end
  local ids = {said or entry}
  for more = 1, 4 do ids[1 + more] = entry .. string.rep(suffix, more) end
  local located = redis.call('HMGET', jobs, unpack(ids))
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
