-- letters: up to 200 dead letters that match a filter, newest first, among those that one step looks at. The step begins
-- before the entry `after`; if that is `=` and an entry, at that entry. '' only asks where to begin. So a step that is sent
-- again, because its answer was lost, finds no letters that came since.
-- Returns {entry, fields, job id} of each; and where the next step goes on, '' at the end.
--- @include field passes time_of entry_at walk_back
local function letters(after, wanted)
  if after == '' then
    local newest = redis.call('XREVRANGE', KEYS.dead, '+', '-', 'COUNT', 1)[1]
    return {}, newest and '=' .. newest[1] or ''
  end
  local some = {}
  local function add(entry, fields)
    local id = field(fields, 'id') or ''
    local is_ours = passes(wanted, fields, time_of(fields, 'failed_at', entry)) and redis.call('HGET', KEYS.jobs, id) == 'dead ' .. entry
    if is_ours then some[#some + 1] = {entry, fields, id} end
    return #some == 200
  end
  local begin = string.match(after, '^=(.+)$')
  local fields = begin and entry_at(KEYS.dead, begin)
  if fields then add(begin, fields) end
  return some, walk_back(KEYS.dead, begin or after, add)
end
