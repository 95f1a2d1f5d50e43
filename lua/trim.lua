#!lua flags=allow-oom
-- trim: delete dead letters and kept jobs that are older, or more, than the retention allows, oldest first. Note
-- that there is more to do, so that no other worker begins.
--
-- ARGV[1]  dead          the retention of dead letters if `retention` has none, in its words
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  {count, more}: how many were deleted; and 1 if there may be more

--- @include now expect slot page bytes_of field push_of finish whole times group_out forget_steps
local usual, now_ms = ARGV[1], now(ARGV[2])

expect('stream', KEYS.dead, KEYS.completed, KEYS.cancelled)
expect('hash', KEYS.jobs, KEYS.retention, KEYS.layout)
expect('set', slot(now_ms))

local looked, bytes = 0, 0

-- Return the entries of one stream to delete in this step, and whether the step ended before it had looked at all.
local function over(stream, age_ms, excess)
  local going, last = {}, '-'
  while page(looked, bytes) > 0 do
    local many = page(looked, bytes)
    local found = redis.pcall('XRANGE', stream, last, '+', 'COUNT', many)
    if found.err then -- nothing comes after the largest entry id there is
      if string.find(found.err, 'invalid start ID', 1, true) then return going, false end
      return error(found)
    end
    for _, entry in ipairs(found) do
      local is_old = age_ms and tonumber(string.match(entry[1], '^%d+')) <= now_ms - age_ms
      if not is_old and #going >= excess then return going, false end
      looked, bytes, last = looked + 1, bytes + bytes_of(entry[2]), '(' .. entry[1]
      going[#going + 1] = entry
    end
    if #found < many then return going, false end
  end
  return going, true
end

-- Another job may have the id and the locator by now, so delete only a locator that names this entry.
local function throw_away(stream, going)
  local place = string.match(stream, '[^:]+$')
  local entries, ids, pushes = {}, {}, {}
  for i, entry in ipairs(going) do
    entries[i], ids[i] = entry[1], field(entry[2], 'id') or ''
    -- The push of an older job can't be repeated.
    if tonumber(string.match(entry[1], '^%d+')) > now_ms - remembered_ms and ids[i] ~= '' then
      pushes[#pushes + 1] = push_of(ids[i], field(entry[2], 'nonce'))
    end
  end
  for i, located in ipairs(redis.call('HMGET', KEYS.jobs, unpack(ids))) do
    if located ~= place .. ' ' .. entries[i] then ids[i] = '' end -- which is no id
  end
  finish('trimmed', {[stream] = entries}, ids, {}, pushes, now_ms)
  if stream == KEYS.dead then
    group_out(going)
    forget_steps(ids, now_ms) -- '' is no id
  end
end

local retention = redis.call('HMGET', KEYS.retention, 'dead', 'completed', 'cancelled')
local total, more = 0, 0
for i, stream in ipairs({KEYS.dead, KEYS.completed, KEYS.cancelled}) do
  local age, most = string.match(retention[i] or (stream == KEYS.dead and usual or ''), '^(%S+) (%S+)$')
  if not age and stream ~= KEYS.dead then most = 0 end -- not kept any more
  local there = redis.call('XLEN', stream)
  local going, left_off = over(stream, tonumber(age or nil), there - (tonumber(most or nil) or there))
  if #going > 0 then throw_away(stream, going) end
  total = total + #going
  if left_off then more = 1 end
end
redis.call('HSET', KEYS.layout, 'tidied_at', whole(now_ms))
return {total, more}
