#!lua
-- push: add jobs, each id once. Refused whole when Redis is out of memory.
--
-- A push may arrive late: after one that repeated it, even after its job ended. So it looks for what ended since it was
-- sent, and for what was refused when it was repeated. It says when it was sent, by the server's clock; one that is
-- older than what Redis remembers adds nothing.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  sent_ms       int ms  when this was sent, by the server's clock; '' if the client does not know it yet
-- ARGV[3]  since_ms      int ms  when these were first sent, by the server's clock, if they may have been pushed before: then all
--           that ended since, or in the last minute, is looked for; else ''
-- ARGV[4..] for each job: id, nonce (tells pushes of one given id apart; '' if the id was made for this push),
--           priority, due ('' now, '+5000' in ms, or a time in ms), unique key ('' none),
--           unique_for (ms the key is kept; '' until the job ends), expires_in (ms; '' never), on_conflict (another job holds
--           the key: 'replace' it while it waits, 'raise' reports it; '' neither),
--           number of field values, then the entry's names and values
--
-- Returns  {now_us, word, ...}: the server's clock, and a word for each job. If the jobs that have these ids or keys are large, only
--          for the first, until 1 MB of them was read: push the others in another call. The words:
--          OK             on the queue
--          REPEATED       this very push arrived before: its job is on the queue, or ended; nothing was written
--          REFUSED        this very push was refused before, when it was repeated; nothing was written
--          EXISTS         another push's job of this id is on the queue, or this call names the job twice
--          DUPLICATE <id> that job holds the unique key
--          REPLACED <id>  that waiting job held it, and is now what this push says, in its place; it kept its id, nonce, attempt
--                         and time of push
--          UNKNOWN        Redis can't know whether this very push arrived before: the clock was set ahead, and what ended since is
--                         forgotten; nothing was written
--          EXISTS and DUPLICATE wrote nothing either, but that a repeated push was refused. A push with an on_conflict gets the
--          same REPLACED or DUPLICATE when it is repeated.
--          or one word for all:
--          STALE          sent too long ago, or the server's clock was set since; nothing was written

--- @include stream_of now push_of checked stored field bytes_of key_holder mark whole expect streams add_job forget_ends
--- @include remember count tell

stream_of.dead = KEYS.dead
local now_ms, exact_ms = now(ARGV[1])
local sent_ms, since_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local repeated = since_ms ~= nil
local first_job = 4

-- What ended is remembered for 65 s. A repetition must arrive sooner after it was sent, so that what ended since the first try
-- is always found; redisjobs/model/times.py says when the client sends the last one.
local oldest_ms, ahead_ms, remembered_ms = repeated and 8000 or 30000, 100, 60000
if not sent_ms or sent_ms < now_ms - oldest_ms or sent_ms > now_ms + ahead_ms then
  return {exact_ms * 1000, 'STALE'}
end

-- All is read before the first write: a push that is refused for a key of another type has written nothing. The jobs are in
-- columns, to ask Redis once about all of them.
local ids, pushes, starts, delays, replaces = {}, {}, {}, false, false
local asked, answered = {}, {} -- keys whose holder a push would replace; earlier answers to these pushes
local at = first_job
while at <= #ARGV do
  local job, nonce, key, on_conflict = ARGV[at], ARGV[at + 1], ARGV[at + 4], ARGV[at + 7]
  ids[#ids + 1], pushes[#pushes + 1], starts[#starts + 1] = job, push_of(job, nonce), at
  if key ~= '' and on_conflict == 'replace' then asked[key], replaces = true, true end
  if on_conflict ~= '' then answered[#ids] = redis.call('GET', KEYS['conflict:'] .. pushes[#ids]) end
  delays = delays or ARGV[at + 3] ~= ''
  at = at + 9 + tonumber(ARGV[at + 8])
end
local located = checked('hash', KEYS.jobs, redis.pcall('HMGET', KEYS.jobs, unpack(ids)))
local kept = {completed = true, cancelled = true} -- jobs that have ended: their ids are free

-- The jobs that have these ids and keys. They may be large, and Redis serves nothing else while they are read.
local holders, there, bytes, looked = {}, {}, 0, 0
for i, start in ipairs(starts) do
  if bytes >= 1048576 then break end
  looked = i
  local key = ARGV[start + 4]
  if located[i] and kept[string.match(located[i], '^%l*')] then located[i] = false end
  if located[i] and ids[i] ~= pushes[i] then
    local fields = stored(stream_of, ids[i], located[i]) -- nil: its entry was deleted
    there[i] = fields and {nonce = field(fields, 'nonce')}
    bytes = bytes + bytes_of(fields or {})
  end
  if key ~= '' and holders[key] == nil then
    local holding, read = key_holder(key, asked[key], now_ms)
    holders[key], bytes = holding or false, bytes + read
  end
end
for i = #ids, looked + 1, -1 do ids[i], pushes[i], starts[i] = nil, nil, nil end

local ended, look = {}, {}
for i, push in ipairs(pushes) do
  look[i] = mark(push)
  if repeated then look[#ids + i] = mark('refused ' .. push) end
end
local looked_in = {}
local function look_from(from_ms, until_ms)
  for n = math.floor(from_ms / 5000), math.floor(until_ms / 5000) do -- as slot counts
    if not looked_in[n] then
      local set = KEYS['finished:'] .. whole(n)
      for i, found in ipairs(checked('set', set, redis.pcall('SMISMEMBER', set, unpack(look)))) do
        if found == 1 then ended[i] = true end
      end
      looked_in[n] = true
    end
  end
end
look_from(repeated and now_ms - remembered_ms or sent_ms - ahead_ms, now_ms + ahead_ms)
-- What ended before the clock was set back is noted under the old clock's time.
if repeated then look_from(since_ms - ahead_ms, since_ms + remembered_ms) end
-- What ended before it was set ahead may be forgotten.
local is_unknown = repeated and now_ms - since_ms > remembered_ms

-- Whether a key has a holder that the push at `at` may not replace.
local function is_kept(holder, at)
  return holder and not (ARGV[at + 7] == 'replace' and holder.notes)
end

local found, lines = {}, {}
for i, start in ipairs(starts) do
  if located[i] and ids[i] == pushes[i] then
    found[i] = 'REPEATED' -- the id was made for this push
  elseif located[i] then
    local is_ours = there[i] and there[i].nonce == ARGV[start + 1]
    found[i] = there[i] and (is_ours and 'REPEATED' or 'EXISTS')
    if not there[i] then lines[i] = string.match(located[i], '^delayed (%S+)') end
  end
  if found[i] ~= 'REPEATED' and ended[#ids + i] then
    found[i] = found[i] or not is_kept(holders[ARGV[start + 4]], start) and 'REFUSED'
  elseif ended[i] then
    found[i] = 'REPEATED'
  end
end

if #ids > 1 or replaces then expect('stream', unpack(streams)) end -- the first write of one alone shows it
if delays or replaces then expect('hash', KEYS.delayed) end
if delays or replaces or next(lines) then expect('zset', KEYS.due) end

local words, pushed, replaced, earliest, newly, refused = {}, 0, 0, nil, {}, {}
local function answer(push, word)
  redis.call('SET', KEYS['conflict:'] .. push, word, 'PX', 65000)
  return word
end

local function add(i, at, holder)
  local stale = lines[i] and lines[i] .. ' ' .. ids[i]
  local first, waits = add_job(ARGV, at, now_ms, exact_ms, i, stale, newly, holder)
  earliest = first or earliest
  if ARGV[at + 4] ~= '' then holders[ARGV[at + 4]] = waits end
  if holder then
    replaced = replaced + 1
    return answer(pushes[i], 'REPLACED ' .. holder.id)
  end
  pushed = pushed + 1
  return 'OK'
end

local added, again, renewed = {}, {}, {} -- renewed: given ids that were added
local function add_all()
  for i, start in ipairs(starts) do
    local holder = holders[ARGV[start + 4]]
    if again[pushes[i]] then
      words[i] = 'EXISTS'
    elseif answered[i] then
      words[i], again[pushes[i]] = answered[i], true
    elseif found[i] == 'REPEATED' or found[i] == 'REFUSED' then
      words[i], again[pushes[i]] = found[i], true
    elseif is_unknown and not ended[#ids + i] then -- a push that was refused since has added nothing
      words[i] = 'UNKNOWN'
    elseif found[i] or added[ids[i]] or holder and is_kept(holder, start) then
      local is_there = found[i] or added[ids[i]]
      words[i] = is_there and 'EXISTS' or 'DUPLICATE ' .. holder.id
      if repeated then -- its first try may arrive later, and find the key free
        refused[#refused + 1], refused[#refused + 2] = pushes[i], 'refused ' .. pushes[i]
        if ARGV[start + 7] ~= '' and not is_there then answer(pushes[i], words[i]) end
      end
    else
      words[i] = add(i, start, holder)
      added[ids[i]], again[pushes[i]] = words[i] == 'OK', true
      if words[i] == 'OK' and ids[i] ~= pushes[i] then renewed[#renewed + 1] = ids[i] end
    end
  end
  forget_ends(renewed) -- an id that was made for its push is new
end

-- If a permission is missing half-way, the jobs that were added have locators, so that a repetition finds them.
local whole_of_it, failure = pcall(add_all)
if #newly > 0 then redis.call('HSET', KEYS.jobs, unpack(newly)) end
if not whole_of_it then
  if #newly == 0 then expect('stream', unpack(streams)) end
  return error({err = failure}) -- pcall has made text of it
end
remember(refused, now_ms)
if pushed > 0 then count('pushed', pushed) end
if replaced > 0 then count('replaced', replaced) end
if earliest then tell('due ' .. whole(earliest)) end
return {exact_ms * 1000, unpack(words)}
