#!lua flags=no-writes,allow-oom
-- groups: describe the groups of dead letters, up to 50 in a step. The groups with the newest letters come first.
-- A group has the letters of one kind of failure: they have the same fingerprint, or the same reason and no
-- fingerprint. Writes nothing.
--
-- ARGV[1]  after   where the step before stopped; '' to begin
-- ARGV[2]  now_ms  int ms; '' = the server's clock
-- Returns  {after, group, ...}: where the next step begins, '' at the end; and for each kind {name, value, ...}.
--          A text is cut after 1,000 bytes
--          kind, count
--          first, last  when the first and the last of its jobs became dead letters, ms
--          reason, error_type, id, error: of the newest of them
--          recent       {12 numbers}: how many became dead letters in each five minutes of the last hour
--          names        {name, ...}: the job names of the newest ten

--- @include now field rank_after entry_at bytes_of whole
local after, now_ms = ARGV[1], now(ARGV[2])
local bytes = 0

local function text_of(fields, name)
  return string.sub(field(fields, name) or '', 1, 1000)
end

-- Return the fields of some letters, given newest first with their times. The first letter is always read; later
-- ones may be too large.
local function fields_of(newest)
  local found = {}
  for i = 1, #newest, 2 do
    local entry = string.gsub(newest[i], '-0+(%d)', '-%1') -- see include/padded
    local fields = (#found == 0 or bytes < 1048576) and entry_at(KEYS.dead, entry) or nil
    if fields then found[#found + 1], bytes = fields, bytes + bytes_of(fields) end
  end
  return found
end

-- Return the five minutes of the last hour that a time is in, 1 to 12; 0 if it is older.
local function age_of(ms)
  return math.min(12, math.max(0, math.ceil((ms - now_ms) / 300000) + 12))
end

local function recent_in(group, newest, count)
  local recent = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
  -- All letters are in `newest`, or none is of the last hour.
  if count * 2 == #newest or age_of(tonumber(newest[2])) == 0 then
    for i = 2, #newest, 2 do
      local age = age_of(tonumber(newest[i]))
      if age > 0 then recent[age] = recent[age] + 1 end
    end
    return recent
  end
  for i = 1, 12 do
    local until_ms = i < 12 and whole(now_ms + (i - 12) * 300000) or '+inf'
    recent[i] = redis.call('ZCOUNT', group, '(' .. whole(now_ms + (i - 13) * 300000), until_ms)
  end
  return recent
end

local function describe(kind)
  local group = KEYS['group:'] .. kind
  local newest = redis.call('ZRANGE', group, 0, 9, 'REV', 'WITHSCORES')
  if not newest[2] then return nil end
  local count, oldest = #newest / 2, newest[#newest]
  if count == 10 then
    count, oldest = redis.call('ZCARD', group), redis.call('ZRANGE', group, 0, 0, 'WITHSCORES')[2]
  end
  local letters, names, known = fields_of(newest), {}, {}
  for _, fields in ipairs(letters) do
    local name = text_of(fields, 'name')
    if not known[name] then names[#names + 1], known[name] = name, true end
  end
  local first = letters[1] or {}
  return {
    'kind', kind, 'count', count, 'first', whole(tonumber(oldest)), 'last', whole(tonumber(newest[2])),
    'reason', text_of(first, 'reason'), 'error_type', text_of(first, 'error_type'),
    'id', field(first, 'id') or '', 'error', text_of(first, 'error'),
    'recent', recent_in(group, newest, count), 'names', names,
  }
end

local groups, left_off = {}, ''
local score, last = string.match(after, '^(%S+) (.+)$')
local rank = score and rank_after(KEYS.groups, tonumber(score), last) or redis.call('ZCARD', KEYS.groups)
local found = rank > 0 and redis.call('ZRANGE', KEYS.groups, math.max(0, rank - 50), rank - 1, 'WITHSCORES') or {}
for i = #found - 1, 1, -2 do
  if found[i] ~= last then groups[#groups + 1] = describe(found[i]) end
  left_off = (i > 1 or rank > 50) and found[i + 1] .. ' ' .. found[i] or ''
  if bytes >= 1048576 then break end
end
return {left_off, unpack(groups)}
