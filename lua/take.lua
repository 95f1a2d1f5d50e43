#!lua flags=allow-oom
-- take: take jobs that do not run out of the queue, and put them in transit to another store, where `import` adds them. Their
-- pushes are remembered, as of jobs that end; but it is no outcome, and nothing is counted.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  name          random: the name of this queue among those of all stores, if it has none yet
-- ARGV[3..] for each job: id, place (high, normal, low, delayed, dead, completed, cancelled), entry ('' if it is delayed)
-- Returns  {name, word, ...}: the queue's name, and a word for each job:
--          OK         it is in transit
--          NOT_FOUND  it runs, or it is not there any more, or it can't be read; nothing was written

--- @include now expect slot streams stream_of entry_at mark_of holder is_waiting locate member unpacked field history with
--- @include pushed_at whole push_of remove free remember group_out
local now_ms, name = now(ARGV[1]), ARGV[2]
local first_job = 3
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local priorities = {high = true, normal = true, low = true}

expect('stream', KEYS.taken, KEYS.dead, KEYS.completed, KEYS.cancelled, unpack(streams))
expect('hash', KEYS.jobs, KEYS.delayed, KEYS.held, KEYS.layout)
expect('zset', KEYS.due)
expect('set', slot(now_ms))

-- Each returns the state, the fields, the priority, when it came there, and if it is delayed, its due time and member of `due`.

local function read_delayed(id)
  local place, line = locate(id)
  if place ~= 'delayed' then return nil end
  local fields, priority = unpacked(redis.call('HGET', KEYS.delayed, id) or '')
  local due_ms = fields and redis.call('ZSCORE', KEYS.due, member(line, id))
  if not due_ms then return nil end
  local since_us = tonumber(string.match(line, '^%d+') or nil)
  return 'delayed', fields, priority, whole(since_us and math.floor(since_us / 1000) or now_ms), due_ms, member(line, id)
end

local function read_aside(id, state, entry)
  local fields = entry_at(aside[state], entry)
  if not fields or field(fields, 'id') ~= id then return nil end
  local priority = field(fields, 'priority')
  return state, fields, priorities[priority] and priority or 'normal', pushed_at(entry, now_ms)
end

local function read_ready(id, priority, entry)
  local stream = stream_of[priority]
  local fields = stream and entry_at(stream, entry)
  if not fields or field(fields, 'id') ~= id or not mark_of(id, priority, entry) then return nil end
  if not is_waiting((holder(stream, entry))) then return nil end
  local since, queued_at = pushed_at(entry, now_ms), field(fields, 'queued_at')
  local changes = {'history', history(fields, priority .. ' ' .. entry)}
  if not queued_at then changes[3], changes[4] = 'queued_at', since end
  return 'ready', with(fields, changes), priority, since
end

local gone, unlocated, undue, ids, pushes, letters, uniques = {}, {}, {}, {}, {}, {}, {} -- what to remove, at the end

local function leave(id, place, entry, fields, state, due_member)
  local stream = aside[place] or stream_of[place]
  if stream then
    gone[stream] = gone[stream] or {}
    table.insert(gone[stream], entry)
  else
    undue[#undue + 1] = due_member
  end
  if place == 'dead' then letters[#letters + 1] = {entry, fields} end
  local at, there = locate(id)
  if at == place and (there == entry or not stream) then unlocated[#unlocated + 1] = id end
  pushes[#pushes + 1] = push_of(id, field(fields, 'nonce'))
  if aside[state] then return end
  ids[#ids + 1] = id
  uniques[#uniques + 1] = {field(fields, 'unique'), id}
end

local seen = {}
local function take(id, place, entry)
  local here = place .. ' ' .. (place == 'delayed' and id or entry)
  local read = place == 'delayed' and read_delayed or aside[place] and read_aside or read_ready
  local state, fields, priority, since, due_ms, due_member = read(id, place, entry)
  if not state or seen[here] then return 'NOT_FOUND' end
  seen[here] = true
  local row = {'id', id, 'state', state, 'priority', priority, 'since', since, 'taken_at', whole(now_ms), 'fields', cjson.encode(fields)}
  if due_ms then row[#row + 1], row[#row + 2] = 'due', due_ms end
  if not aside[state] and redis.call('HGET', KEYS.held, id) then row[#row + 1], row[#row + 2] = 'held', '1' end
  redis.call('XADD', KEYS.taken, '*', unpack(row))
  leave(id, place, entry, fields, state, due_member)
  return 'OK'
end

local known = redis.call('HGET', KEYS.layout, 'name')
if not known then redis.call('HSET', KEYS.layout, 'name', name) end
local words = {}
for at = first_job, #ARGV, 3 do words[#words + 1] = take(ARGV[at], ARGV[at + 1], ARGV[at + 2]) end

for stream, entries in pairs(gone) do remove(stream, unpack(entries)) end
if #undue > 0 then redis.call('ZREM', KEYS.due, unpack(undue)) end
if #ids > 0 then
  redis.call('HDEL', KEYS.delayed, unpack(ids))
  redis.call('HDEL', KEYS.held, unpack(ids))
  redis.pcall('HDEL', KEYS.waiters, unpack(ids))
end
if #unlocated > 0 then redis.call('HDEL', KEYS.jobs, unpack(unlocated)) end
for _, held in ipairs(uniques) do free(held[1], held[2]) end
group_out(letters)
remember(pushes, now_ms)
return {known or name, unpack(words)}
