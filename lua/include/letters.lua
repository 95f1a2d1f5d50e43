-- letters: up to 200 dead letters that a filter lets through, newest first, of the 500 or about 1 MB that a step looks
-- at. They come before the one that `after` names, or start with it if that is `=` and an entry. '' only asks where to
-- start: a step that is sent again, as its answer was lost, then finds no letters that came since.
--
-- Returns entry, fields and job id of each; and where the next step goes on, '' at the end
--- @include first_id field bytes_of passes time_of page before
local function letters(after, wanted)
  local some, looked, bytes, first = {}, 0, 0, first_id(KEYS.dead)

  local function add(found)
    if #found == 0 then return end
    local said = {}
    for i, entry in ipairs(found) do said[i] = field(entry[2], 'id') or '' end
    local located = redis.call('HMGET', KEYS.jobs, unpack(said))
    for i, entry in ipairs(found) do
      looked, bytes, after = looked + 1, bytes + bytes_of(entry[2]), entry[1]
      local is_ours = located[i] == 'dead ' .. entry[1]
      if is_ours and passes(wanted, entry[2], time_of(entry[2], 'failed_at', entry[1])) then
        some[#some + 1] = {entry[1], entry[2], said[i]}
      end
      if #some == 200 then return end
    end
  end

  if after == '' then
    local newest = redis.call('XREVRANGE', KEYS.dead, '+', '-', 'COUNT', 1)[1]
    return some, newest and '=' .. newest[1] or ''
  end
  local begin = string.match(after, '^=(.+)$')
  if begin then
    after = begin
    add(redis.call('XRANGE', KEYS.dead, begin, begin))
  end
  while #some < 200 do
    local many = page(looked, bytes)
    if many == 0 then break end
    local found = before(KEYS.dead, first, after, many)
    if found.err and not string.find(found.err, 'invalid %a+ ID') then return error(found) end
    if found.err or #found == 0 then return some, '' end -- nothing comes before the smallest possible entry id
    add(found)
  end
  return some, after
end
