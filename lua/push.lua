#!lua
-- push: add jobs, each id once. Refused whole when Redis is out of memory.
--
-- A push may arrive late: after its own repetition, even after its job has ended. So each push looks for jobs that
-- ended since it was sent, and for pushes that were refused when they were repeated. A push that is older than
-- this memory adds nothing.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  sent_ms       int ms  when this was sent, by the server's clock; '' if the client does not know it yet
-- ARGV[3]  since_ms      int ms  when these jobs were first sent, if this is a repetition; else ''
-- ARGV[4]  outbox        '' or the name of an outbox: the jobs are rows of it. Each row that gets an answer here
--                        is remembered until `forget_relayed`. Until then its push is REPEATED, however late it
--                        comes
-- ARGV[5..] for each job: id, nonce (tells pushes of one given id apart; '' if the id was made for this push),
--           priority, due ('' now, '+5000' in ms, or a time in ms), unique key ('' none),
--           unique_for (ms the key is kept; '' until the job ends), expires_in (ms; '' never), on_conflict
--           (another job holds the key: 'replace' it while it waits, 'raise' reports it; '' neither),
--           number of field values, then the entry's names and values
-- Returns  {now_us, word, ...}: the server's clock, and a word for each job. The call stops after it has read 1 MB
--          of the jobs that have these ids or keys. It then answers the first jobs only; send the others again.
--          The words:
--          OK             on the queue
--          REPEATED       the same push arrived before: its job is on the queue, or has ended; nothing was written
--          REFUSED        the same push was refused before, when it was repeated; nothing was written
--          EXISTS         another push's job with this id is on the queue, or this call names the job twice
--          DUPLICATE <id> that job holds the unique key
--          REPLACED <id>  that waiting job held the key, and has this push's content now; it kept its id, nonce,
--                         attempt and time of push
--          UNKNOWN        Redis can't know whether the same push arrived before: its clock was set ahead; nothing
--                         was written
--          EXISTS and DUPLICATE write nothing either, except a note that a repeated push was refused. A push with
--          an on_conflict gets the same REPLACED or DUPLICATE when it is repeated. Or one word for all:
--          STALE          sent too long ago, or the server's clock was set since; nothing was written

--- @include times now pusher push_of mark recent_ends checked stored field bytes_of streams expect forget_ends
--- @include remember
local now_ms, exact_ms = now(ARGV[1])
local sent_ms, since_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local relayed = ARGV[4] ~= '' and KEYS['relayed:'] .. ARGV[4]
local first_job = 5

-- Read everything before the first write, so that a push which fails at a key of another type has written nothing.
-- The jobs are in columns, so that one command covers all of them.
local pushing = pusher(ARGV, now_ms, exact_ms)
local ids, pushes, starts, needs_due = {}, {}, {}, false
local answered = {} -- answers that these pushes got before
local at = first_job
while at <= #ARGV do
  local job, nonce, due, on_conflict = ARGV[at], ARGV[at + 1], ARGV[at + 3], ARGV[at + 7]
  ids[#ids + 1], pushes[#pushes + 1], starts[#starts + 1] = job, push_of(job, nonce), at
  if on_conflict ~= '' then answered[#ids] = redis.call('GET', KEYS['conflict:'] .. pushes[#ids]) end
  needs_due = needs_due or due ~= '' or on_conflict == 'replace'
  at = pushing.take(at)
end

local marks, many = {}, #ids
for i, push in ipairs(pushes) do
  marks[i] = mark(push)
  if since_ms then marks[many + i] = mark('refused ' .. push) end
end
local is_late, ended = recent_ends(sent_ms, now_ms, since_ms, unpack(marks))
if is_late then return {exact_ms * 1000, 'STALE'} end
-- After the clock was set ahead, Redis may have forgotten jobs that ended.
local is_unknown = since_ms and now_ms - since_ms > remembered_ms
-- Rows that were answered before. Usually there are none, because they are forgotten when they are deleted.
local before = {}
if relayed and expect('zset', relayed) then
  for i, push in ipairs(pushes) do before[i] = redis.call('ZSCORE', relayed, push) end
end

-- Read the jobs with these ids and keys. They may be large, and Redis serves nothing else while it reads them.
local located = checked('hash', KEYS.jobs, redis.pcall('HMGET', KEYS.jobs, unpack(ids)))
local kept = {completed = true, cancelled = true} -- jobs that have ended: their ids are free
local found, stale, looked = {}, {}, 0
local function look_at(i, start)
  if located[i] and not kept[string.match(located[i], '^%l*')] then
    local fields = ids[i] ~= pushes[i] and stored(ids[i], located[i]) or nil
    pushing.counts.bytes = pushing.counts.bytes + bytes_of(fields or {})
    if ids[i] == pushes[i] then
      found[i] = 'REPEATED' -- the id was made for this push
    elseif fields then
      found[i] = field(fields, 'nonce') == ARGV[start + 1] and 'REPEATED' or 'EXISTS'
    else -- its entry was deleted
      local line = string.match(located[i], '^delayed (%S+)')
      stale[i] = line and line .. ' ' .. ids[i]
    end
  end
  pushing.look_at(start)
end
for i, start in ipairs(starts) do
  if pushing.counts.bytes >= 1048576 then break end
  look_at(i, start)
  looked = i
end
for i = 1, looked do
  if before[i] then
    found[i] = 'REPEATED'
  elseif found[i] ~= 'REPEATED' and ended and ended[many + i] then
    found[i] = found[i] or not pushing.keeper(starts[i]) and 'REFUSED' or nil
  elseif ended and ended[i] then
    found[i] = 'REPEATED'
  end
end

-- The first write of a single ready job fails by itself.
if many > 1 or needs_due then expect('stream', unpack(streams)) end
if needs_due or next(stale) then
  expect('hash', KEYS.delayed)
  expect('zset', KEYS.due)
end

local words, refused, newly = {}, {}, {}
local answers, added, renewed = {}, {}, {} -- answers by push; added jobs by id; added ids that were given

local function answer(i, word)
  redis.call('SET', KEYS['conflict:'] .. pushes[i], word, 'PX', kept_ms)
  return word
end

local function refuse(i, word)
  if not since_ms then return word end
  -- Remember it: the first try may arrive later, and find the key free.
  refused[#refused + 1], refused[#refused + 2] = pushes[i], 'refused ' .. pushes[i]
  local is_answer = word ~= 'EXISTS' and ARGV[starts[i] + 7] ~= ''
  return is_answer and answer(i, word) or word
end

local function push(i)
  local keeper, known = pushing.keeper(starts[i]), answered[i]
  if found[i] == 'REPEATED' or found[i] == 'REFUSED' then known = known or found[i] end
  if answers[pushes[i]] then return 'EXISTS' end
  answers[pushes[i]] = known
  if known then return known end
  -- A push that was refused since has added nothing.
  if is_unknown and not (ended and ended[many + i]) then return 'UNKNOWN' end
  if found[i] or added[ids[i]] then return refuse(i, 'EXISTS') end
  if keeper then return refuse(i, 'DUPLICATE ' .. keeper.id) end

  local replaced = pushing.add(starts[i], stale[i], newly)
  answers[pushes[i]] = 'OK'
  if replaced then return answer(i, 'REPLACED ' .. replaced) end
  added[ids[i]] = true
  if ids[i] ~= pushes[i] then renewed[#renewed + 1] = ids[i] end
  return 'OK'
end

local function push_all()
  for i = 1, looked do words[i] = push(i) end
  forget_ends(renewed) -- only given ids: an id that was made for its push is new
end

-- The first write adds nothing. Without the permission for it, no job may be added.
if relayed then redis.call('ZADD', relayed, 'XX', now_ms, pushes[1]) end
-- If a permission is missing half-way, the added jobs have locators, so that a repeated push finds them.
local is_whole, failure = pcall(push_all)
if #newly > 0 then redis.call('HSET', KEYS.jobs, unpack(newly)) end
if not is_whole then
  if #newly == 0 then expect('stream', unpack(streams)) end
  return error({err = failure}) -- pcall has turned it into text
end
if relayed then
  local rows = {}
  for i = 1, looked do rows[2 * i - 1], rows[2 * i] = now_ms, pushes[i] end
  redis.call('ZADD', relayed, unpack(rows))
end
remember(refused, now_ms)
pushing.write()
return {exact_ms * 1000, unpack(words)}
