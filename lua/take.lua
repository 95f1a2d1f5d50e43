#!lua flags=allow-oom
-- take: take jobs that do not run out of the queue, and put them in transit to another store, where `import` adds
-- them. Their pushes are remembered, like those of jobs that end. But a move is no outcome, so nothing is counted.
-- Saved steps, signals, and the outcomes of children move with them: about 1 MB of it in one call.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  name          random: the name of this queue among those of all stores, if it has none yet
-- ARGV[3]  most_outcomes int     bytes: a job whose children have returned more stays; -1: each that has had
--                        children
-- ARGV[4..] for each job: id, place (high, normal, low, delayed, suspended, dead, completed, cancelled), entry
--          ('' if it is delayed or suspended)
-- Returns  {name, word, ...}: the queue's name, and a word for each job:
--          OK         it is in transit
--          NOT_FOUND  it runs, or it is gone, or it can't be read; nothing was written
--          STAYS      its children, or those of its group, have not all ended, or have returned too much; nothing
--                     was written
--          PARTIAL    not looked at, because the jobs before it are large; nothing was written

--- @include now expect slot streams stream_of entry_at mark_of holder is_waiting locate member unpacked field
--- @include history with pushed_at whole push_of remove free remember group_out groups_of forget_steps bytes_of
--- @include read_children
local now_ms, name, most_outcomes = now(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local first_job = 4
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local index_of = {delayed = KEYS.due, suspended = KEYS.suspended}
local priorities = {high = true, normal = true, low = true}
local most_bytes, bytes = 1048576, 0

expect('stream', KEYS.taken, KEYS.dead, KEYS.completed, KEYS.cancelled, unpack(streams))
expect('hash', KEYS.jobs, KEYS.delayed, KEYS.held, KEYS.signals, KEYS.layout)
expect('zset', KEYS.due, KEYS.suspended)
expect('set', slot(now_ms))

-- Each reader returns the state, the fields, the priority, and when the job came there. Of a delayed or suspended
-- job it also returns the due time and the member of that index.

local function read_later(id, state)
  local place, line, mark = locate(id)
  if place ~= 'delayed' or (mark == 'suspended') ~= (state == 'suspended') then return nil end
  local fields, priority = unpacked(redis.call('HGET', KEYS.delayed, id) or '')
  local due_ms = fields and redis.call('ZSCORE', index_of[state], member(line, id))
  if not due_ms then return nil end
  local since_us = tonumber(string.match(line, '^%d+') or nil)
  return state, fields, priority, whole(since_us and math.floor(since_us / 1000) or now_ms),
    due_ms, member(line, id)
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

-- Return how the children of each group of a job have ended, as a list: for each group its token, the number of
-- children, and the answer of read_children. nil: some have not ended, or they have returned more than
-- `most_outcomes`.
local function ended_children(job)
  local list, read = {}, 0
  for _, token in ipairs(groups_of(job)) do
    local group = KEYS['children:'] .. token
    local known = redis.pcall('HMGET', group, 'total', 'left')
    local total, left = tonumber(known[1] or nil), tonumber(known[2] or nil)
    if total and left ~= 0 then return nil end
    if total then
      list[#list + 1], list[#list + 2] = token, whole(total)
      read = read + read_children(list, group, 0, total, most_outcomes - read + 1)
      if read > most_outcomes then return nil end
    end
  end
  return list
end

-- Return the data that moves with a job, each as a JSON list of strings: its steps, its signals, and how its
-- children have ended. nil: the job stays. Also return whether it has steps.
local function saved(id, fields)
  local token = string.match(field(fields, 'child_of') or '', '^%S+')
  local left = token and redis.pcall('HGET', KEYS['children:'] .. token, 'left')
  if type(left) == 'string' and left ~= '0' then return nil end
  local steps, children = redis.pcall('HGETALL', KEYS['steps:'] .. id), ended_children(id)
  if not children then return nil end
  local row = {}
  for name, list in pairs({steps = steps, children = children}) do
    if #list > 0 then row[#row + 1], row[#row + 2] = name, cjson.encode(list) end
  end
  local signals = redis.call('HGET', KEYS.signals, id)
  if signals then row[#row + 1], row[#row + 2] = 'signals', signals end
  bytes = bytes + bytes_of(row)
  return row, #steps > 0
end

-- Collect all removals, for the end.
local gone, unlocated, undue, ids, pushes, letters, uniques, living = {}, {}, {}, {}, {}, {}, {}, {}

local function add(lists, key, value)
  lists[key] = lists[key] or {}
  table.insert(lists[key], value)
end

local function leave(id, place, entry, fields, state, due_member)
  local stream = aside[place] or stream_of[place]
  if stream then
    add(gone, stream, entry)
  else
    add(undue, index_of[place], due_member)
  end
  if place == 'dead' then letters[#letters + 1] = {entry, fields} end
  local at, there = locate(id)
  if at == place and there == entry or not stream then unlocated[#unlocated + 1] = id end
  pushes[#pushes + 1] = push_of(id, field(fields, 'nonce'))
  if state ~= 'completed' and state ~= 'cancelled' then living[#living + 1] = id end
  if aside[state] then return end
  ids[#ids + 1] = id
  uniques[#uniques + 1] = {field(fields, 'unique'), id}
end

local seen = {}
local function take(id, place, entry)
  if bytes >= most_bytes then return 'PARTIAL' end
  local here = place .. ' ' .. (index_of[place] and id or entry)
  local read = index_of[place] and read_later or aside[place] and read_aside or read_ready
  local state, fields, priority, since, due_ms, due_member = read(id, place, entry)
  if not state or seen[here] then return 'NOT_FOUND' end
  local has_ended = state == 'completed' or state == 'cancelled'
  local with_it, has_steps = {}, false
  if not has_ended then with_it, has_steps = saved(id, fields) end
  if not with_it then return 'STAYS' end
  seen[here] = true
  if has_steps then fields = with(fields, {'steps', '1'}) end -- its entry may be older than the steps
  local row = {'id', id, 'state', state, 'priority', priority, 'since', since, 'taken_at', whole(now_ms),
    'fields', cjson.encode(fields)}
  if due_ms and due_ms ~= 'inf' then row[#row + 1], row[#row + 2] = 'due', due_ms end
  if not aside[state] and redis.call('HGET', KEYS.held, id) then row[#row + 1], row[#row + 2] = 'held', '1' end
  for _, part in ipairs(with_it) do row[#row + 1] = part end
  redis.call('XADD', KEYS.taken, '*', unpack(row))
  leave(id, place, entry, fields, state, due_member)
  return 'OK'
end

local known = redis.call('HGET', KEYS.layout, 'name')
if not known then redis.call('HSET', KEYS.layout, 'name', name) end
local words = {}
for at = first_job, #ARGV, 3 do words[#words + 1] = take(ARGV[at], ARGV[at + 1], ARGV[at + 2]) end

for stream, entries in pairs(gone) do remove(stream, unpack(entries)) end
for index, members in pairs(undue) do redis.call('ZREM', index, unpack(members)) end
if #ids > 0 then
  redis.call('HDEL', KEYS.delayed, unpack(ids))
  redis.call('HDEL', KEYS.held, unpack(ids))
  redis.pcall('HDEL', KEYS.waiters, unpack(ids))
end
if #living > 0 then
  forget_steps(living, now_ms)
  redis.call('HDEL', KEYS.signals, unpack(living))
end
if #unlocated > 0 then redis.call('HDEL', KEYS.jobs, unpack(unlocated)) end
for _, held in ipairs(uniques) do free(held[1], held[2]) end
group_out(letters)
remember(pushes, now_ms)
return {known or name, unpack(words)}
