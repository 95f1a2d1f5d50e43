-- locate: where a job is: its place (`normal`, `delayed`, `dead`), the entry there, the mark beside it, its id.
-- A job put in by hand may have no locator; it goes by its entry id, and any entry by its place: `1732-0@low`,
-- `1732-0@dead`. Nil: nowhere. Needs field, entry_at, identify beside it.
local function locate(places, jobs, job)
  local located = redis.call('HGET', jobs, job)
  if located then
    local place, entry, mark = string.match(located, '^(%S+) ?(%S*) ?(%S*)$')
    return place, entry, mark, job
  end
  local entry, name = string.match(job, '^(%d+%-%d+)@(%l+)$')
  local among = {'high', 'normal', 'low'}
  if entry then among = {name} end
  entry = entry or string.match(job, '^%d+%-%d+$')
  for _, place in ipairs(entry and among or {}) do
    local fields = places[place] and entry_at(places[place], entry)
    if fields then
      local id, mark = identify(places, jobs, place, entry, fields)
      if name or id == job then return place, entry, mark or '', id end
    end
  end
  return nil
end
