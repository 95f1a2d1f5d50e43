-- locate: where a job is: its place (`normal`, `delayed`, `dead`), the entry there, the mark beside it, its id; nil:
-- nowhere. A job without a locator goes by its entry id, and any entry by its place: `1732-0@low`, `1732-0@dead`.
--- @include entry_at identify
local function locate(places, job)
  local located = redis.call('HGET', KEYS.jobs, job)
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
      local id, mark = identify(places, place, entry, fields)
      if name or id == job then return place, entry, mark or '', id end
    end
  end
  return nil
end
