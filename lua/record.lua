#!lua
-- record: add the counts of a worker to the statistics of this minute and of these ten minutes. The first call in
-- an interval also notes the state of the queue. A server that is out of memory refuses the call; then only these
-- counts are lost.
--
-- A stored text has names and sums, such as `completed=120 run50=12`. It is changed in place, because parsing and
-- rebuilding it costs three times as much. A part that can't be read stays, and counts as nothing.
--
-- ARGV[1]  recorder      the part of a worker that counts: a name of its own
-- ARGV[2]  number        int     of this call, greater each time; a number that came before adds nothing
-- ARGV[3]  now_ms        int ms; '' = the server's clock
-- ARGV[4..] fields of both intervals (`all`, `causes`, or `job ` and a name), each with the number of its sums,
--          and these: name, number
-- Returns  {the time until the next minute, ms; the number of workers}

--- @include now expect whole streams leased backlogs
local mark, number, now_ms = KEYS['recorded:'] .. ARGV[1], tonumber(ARGV[2]), now(ARGV[3])
local first_field = 4
local most_names, most_causes = 200, 50 -- redisjobs/model/recording.py has the same
local hour_ms = 3600000
local minute = math.floor(now_ms / 60000)
local intervals = {
  {key = KEYS['minute:'] .. whole(minute), lasts_ms = 8 * hour_ms + 60000},
  {key = KEYS['ten:'] .. whole(math.floor(minute / 10)), lasts_ms = 72 * hour_ms + 600000},
}
expect('hash', intervals[1].key, intervals[2].key)
expect('string', mark)
expect('zset', KEYS.workers)
local is_new = number > (tonumber(redis.call('GET', mark) or nil) or 0)

-- The fields to add, and where the sums of each begin and end in ARGV.
local fields, begins, ends = {}, {}, {}
local at = first_field
while at < #ARGV do
  fields[#fields + 1], begins[#begins + 1], ends[#ends + 1] = ARGV[at], at + 2, at + 1 + 2 * tonumber(ARGV[at + 1])
  at = ends[#ends] + 1
end

-- Return a stored text with the sums of ARGV from `begin` to `stop` added. New names beyond `most` count as
-- `other`.
local find, sub = string.find, string.sub
local function add(text, begin, stop, most)
  if text ~= '' then text = ' ' .. text end
  for i = begin, stop, 2 do
    local name = ' ' .. ARGV[i] .. '='
    local _, last = find(text, name, 1, true)
    if most and not last and select(2, string.gsub(text, '=', '')) >= most then
      name = ' other='
      _, last = find(text, name, 1, true)
    end
    if last then
      local after = find(text, ' ', last, true) or #text + 1
      local before = tonumber(sub(text, last + 1, after - 1)) or 0
      if before > 1e12 then before = 0 end -- changed outside redisjobs; from 1e14 on, Lua would write it as 1e+14
      text = sub(text, 1, last) .. (before + ARGV[i + 1]) .. sub(text, after)
    else
      text = text .. name .. ARGV[i + 1]
    end
  end
  return sub(text, 2)
end

-- Add the fields to an interval. New job names beyond the most count as `other`.
local function add_all(key)
  local stored, room = redis.call('HMGET', key, unpack(fields)), most_names + 3 - redis.call('HLEN', key)
  local texts = {}
  for i, name in ipairs(fields) do
    local text = stored[i] or ''
    if not stored[i] and string.sub(name, 1, 4) == 'job ' then
      room = room - 1
      if room < 0 then
        name = 'job other'
        text = redis.call('HGET', key, name) or ''
      end
    end
    texts[name] = add(texts[name] or text, begins[i], ends[i], name == 'causes' and most_causes)
  end
  local flat = {}
  for name, text in pairs(texts) do flat[#flat + 1], flat[#flat + 2] = name, text end
  redis.call('HSET', key, unpack(flat))
end

-- Return the state of the queue as a text of counts.
local function sample()
  local ready, running, oldest = 0, 0, now_ms
  for _, stream in ipairs(streams) do
    local length, held = redis.call('XLEN', stream), leased(stream)
    if held < 0 then held = 0 end -- very many consumers: its running jobs count as ready
    ready, running = ready + math.max(0, length - held), running + held
  end
  local since = backlogs(now_ms)
  for i = 2, #since, 2 do
    local ms = tonumber(string.match(since[i], '^%d+')) or 0
    -- A smaller number is no time: redisjobs/model/transitions.py, LONG_AGO.
    if ms > 1e12 then oldest = math.min(oldest, ms) end
  end
  local counts = {'ready', ready, 'running', running, 'delayed', redis.call('ZCARD', KEYS.due),
    'suspended', redis.call('ZCARD', KEYS.suspended), 'dead', redis.call('XLEN', KEYS.dead), 'oldest_ms',
    now_ms - oldest, 'pushed', tonumber(redis.call('HGET', KEYS.stats, 'pushed') or nil) or 0,
    'workers', redis.call('ZCARD', KEYS.workers)}
  local parts = {}
  for i = 1, #counts, 2 do parts[#parts + 1] = counts[i] .. '=' .. whole(counts[i + 1]) end
  return table.concat(parts, ' ')
end

local sampled
for _, interval in ipairs(intervals) do
  if not redis.call('HGET', interval.key, 'queue') then
    if sampled == nil then
      local is_read, text = pcall(sample) -- a key of the queue that has another type must not stop the statistics
      sampled = is_read and text
    end
    if sampled then redis.call('HSET', interval.key, 'queue', sampled) end
  end
  if is_new and #fields > 0 then add_all(interval.key) end
  redis.call('PEXPIRE', interval.key, interval.lasts_ms)
end
if is_new and #fields > 0 then redis.call('SET', mark, whole(number), 'PX', hour_ms) end
return {(minute + 1) * 60000 - now_ms, redis.call('ZCARD', KEYS.workers)}
