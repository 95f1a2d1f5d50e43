-- letters: up to 200 dead letters that match a filter, newest first, among the letters that one step looks at. The
-- step begins before the letter `after`; with `=` in front of it, at that letter. '' only asks where to begin. So
-- a step that is sent again because its answer was lost finds no newer letters.
-- Returns {entry, fields, job id} of each; and where the next step begins, '' at the end.
--- @include field passes time_of entry_at walk_back walk_group
local function letters(after, wanted)
  local kind = wanted.fingerprint
  if after == '' then
    local newest
    if kind ~= '' then
      local found = redis.call('ZRANGE', KEYS['group:'] .. kind, -1, -1, 'WITHSCORES')
      newest = found[1] and found[2] .. ' ' .. found[1]
    else
      newest = (redis.call('XREVRANGE', KEYS.dead, '+', '-', 'COUNT', 1)[1] or {})[1]
    end
    return {}, newest and '=' .. newest or ''
  end
  local some = {}
  local function add(entry, fields)
    local id = field(fields, 'id') or ''
    local is_ours = passes(wanted, fields, time_of(fields, 'failed_at', entry))
      and redis.call('HGET', KEYS.jobs, id) == 'dead ' .. entry
    if is_ours then some[#some + 1] = {entry, fields, id} end
    return #some == 200
  end
  local begin = string.match(after, '^=(.+)$')
  local first = begin and string.gsub(string.match(begin, '%S+$'), '-0+(%d)', '-%1')
  local fields = first and entry_at(KEYS.dead, first)
  if fields then add(first, fields) end
  after = begin or after
  if kind ~= '' then return some, walk_group(kind, after, add) end
  return some, walk_back(KEYS.dead, after, add)
end
