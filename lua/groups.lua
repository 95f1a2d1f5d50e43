#!lua flags=no-writes,allow-oom
-- groups: describe the groups of dead letters, those with the newest letters first, a step at a time. A group has the letters
-- of one kind of failure: with the same fingerprint, or without one and with the same reason. Writes nothing.
--
-- ARGV[1]  after   where the step before stopped; '' to begin
-- ARGV[2]  now_ms  int ms; '' = the server's clock
-- Returns  {after, group, ...}: where the next step goes on, '' at the end; and for each kind
--          {kind, reason, error type, count, first ms, last ms, job id, error, {12 numbers}, name, ...}: when the first and the
--          last became dead letters; how many did in each five minutes of the last hour; id and error of the newest; and the
--          job names of the newest ten. A text is cut after 1,000 bytes

--- @include now field rank_after entry_at bytes_of whole
local after, now_ms = ARGV[1], now(ARGV[2])
local bytes = 0

local function text_of(fields, name)
  return string.sub(field(fields, name) or '', 1, 1000)
end

-- The fields of the newest letters of a group, newest first. The first one is always read: large ones may follow.
local function newest_of(group)
  local found = {}
  for _, member in ipairs(redis.call('ZRANGE', group, 0, 9, 'REV')) do
    local entry = string.gsub(member, '-0+(%d)', '-%1') -- see include/padded
    local fields = (#found == 0 or bytes < 1048576) and entry_at(KEYS.dead, entry) or nil
    if fields then found[#found + 1], bytes = fields, bytes + bytes_of(fields) end
  end
  return found
end

local function recent_in(group)
  local recent, since = {}, now_ms - 3600000
  for i = 1, 12 do
    local until_ms = i < 12 and whole(since + i * 300000) or '+inf'
    recent[i] = redis.call('ZCOUNT', group, '(' .. whole(since + (i - 1) * 300000), until_ms)
  end
  return recent
end

local function describe(kind)
  local group = KEYS['group:'] .. kind
  local first, last = redis.call('ZRANGE', group, 0, 0, 'WITHSCORES'), redis.call('ZRANGE', group, -1, -1, 'WITHSCORES')
  if not first[2] then return nil end
  local letters, names, known = newest_of(group), {}, {}
  for _, fields in ipairs(letters) do
    local name = text_of(fields, 'name')
    if not known[name] then names[#names + 1], known[name] = name, true end
  end
  local newest = letters[1] or {}
  local texts = {text_of(newest, 'reason'), text_of(newest, 'error_type')}
  return {kind, texts[1], texts[2], redis.call('ZCARD', group), whole(tonumber(first[2])), whole(tonumber(last[2])),
    field(newest, 'id') or '', text_of(newest, 'error'), recent_in(group), unpack(names)}
end

local groups, left_off = {}, ''
local score, last = string.match(after, '^(%S+) (.+)$')
local rank = score and rank_after(KEYS.groups, tonumber(score), last) or redis.call('ZCARD', KEYS.groups)
local found = rank > 0 and redis.call('ZRANGE', KEYS.groups, math.max(0, rank - 100), rank - 1, 'WITHSCORES') or {}
for i = #found - 1, 1, -2 do
  if found[i] ~= last then groups[#groups + 1] = describe(found[i]) end
  left_off = (i > 1 or rank > 100) and found[i + 1] .. ' ' .. found[i] or ''
  if bytes >= 1048576 then break end
end
return {left_off, unpack(groups)}
