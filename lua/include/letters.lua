-- letters: dead letters that a filter lets through, the newest first; up to 200, of 500 that are looked at, and of about 1 MB. They
-- come before the one that `after` names, or begin with it where that is `=` and an entry. '' only asks where to begin: so a
-- step that is sent again, as its answer was lost, finds none of those that died anew since.
--
-- Returns for each its entry, its fields and the id of its job; and where the next step goes on, '' where there is no more. Needs
-- field, time_of, page, bytes_of, entry_at, identify, first_id, is_older, before, passes beside it.
local function letters(jobs, dead, after, wanted)
  local some, looked, bytes, first, places = {}, 0, 0, first_id(dead), {dead = dead}

  local function add(found)
    if #found == 0 then return end
    local said = {}
    for i, entry in ipairs(found) do said[i] = field(entry[2], 'id') or '' end
    local located = redis.call('HMGET', jobs, unpack(said))
    for i, entry in ipairs(found) do
      looked, bytes, after = looked + 1, bytes + bytes_of(entry[2]), entry[1]
      if passes(wanted, entry[2], time_of(entry[2], 'failed_at', entry[1])) then
        local is_there = said[i] ~= '' and located[i] == 'dead ' .. entry[1]
        some[#some + 1] = {entry[1], entry[2], is_there and said[i] or identify(places, jobs, 'dead', entry[1], entry[2])}
      end
      if #some == 200 then return end
    end
  end

  if after == '' then
    local newest = redis.call('XREVRANGE', dead, '+', '-', 'COUNT', 1)[1]
    return some, newest and '=' .. newest[1] or ''
  end
  local begin = string.match(after, '^=(.+)$')
  if begin then
    after = begin
    add(redis.call('XRANGE', dead, begin, begin))
  end
  while #some < 200 do
    local many = page(looked, bytes)
    if many == 0 then break end
    local found = before(dead, first, after, many)
    if found.err and not string.find(found.err, 'invalid %a+ ID') then return error(found) end
    if found.err or #found == 0 then return some, '' end -- nothing comes before the smallest entry id there is
    add(found)
  end
  return some, after
end
