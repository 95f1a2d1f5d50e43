#!lua
-- import: add jobs that `take` has taken out of the queue of another store, in the order in which they were taken.
-- Refused whole when Redis is out of memory.
--
-- The place of the last job is noted in the same step, so that each job is added once, however often and late it
-- is sent. A job that can't be added is noted too. If it is sent again, the script looks at it again.
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  source        the name of the queue that they come from
-- ARGV[3..] for each job: place (a text; all have the same length), id, state, priority, due (ms; '' for none),
--           held (1 or ''), window (until when it holds the unique key that it has for a time, ms; ''), outcome,
--           result, until (when the outcome goes, ms; ''), until (when the result goes, ms; ''), number of field
--           values, then the entry's names and values; then in the same way its saved steps (see `steps:<id>` in
--           the README) and its signals; then the number of its groups of children; and for each its token and in
--           the same way its record
-- Returns  a word for each job:
--          OK             it is in the queue, in its state
--          REPEATED       it was added before; nothing was written
--          EXISTS         a job with its id is in the queue; only that was noted
--          DUPLICATE <id> that job holds its unique key; only that was noted. No id: the key has another type
--          OVERSIZED      it has more values than a script can add; only that was noted

--- @include now expect streams is_taken key_holder field with delay line enqueue whole forget_ends set_aside
--- @include time_of tell keep_signals
local now_ms, exact_ms = now(ARGV[1])
local noted = KEYS['imported:'] .. ARGV[2]
local first_job = 3
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local earliest

expect('hash', noted, KEYS.jobs, KEYS.delayed, KEYS.held, KEYS.signals)
expect('stream', KEYS.dead, KEYS.completed, KEYS.cancelled, unpack(streams))
expect('zset', KEYS.due, KEYS.suspended)
local last = redis.call('HGET', noted, 'last') or ''
redis.call('HSET', noted, 'last', last) -- without the permission for this write, no job may be added

-- Keep a value until a time, if that time is in the future.
local function keep_until(key, value, until_ms)
  if value ~= '' and (tonumber(until_ms) or 0) > now_ms then redis.call('SET', key, value, 'PXAT', until_ms) end
end

-- Keep how a job has ended, unless the outcome of another run with its id is kept longer: that run has usually
-- ended later.
local function keep_ending(id, state, outcome, result, until_ms, result_until_ms)
  local left_ms = state == 'dead' and 0 or redis.call('PTTL', KEYS['outcome:'] .. id)
  if now_ms + left_ms >= (tonumber(until_ms) or 0) then return end
  forget_ends({id})
  keep_until(KEYS['outcome:'] .. id, outcome, until_ms)
  keep_until(KEYS['result:'] .. id, result, result_until_ms)
end

-- Return the unique key that a waiting job holds, '' for none, and whether it holds it only for a time.
local function key_of(fields, until_ms)
  local unique, window = field(fields, 'unique') or '', field(fields, 'window') or ''
  -- The key was free once the job had started.
  if field(fields, 'steps') and field(fields, 'unique_until') == 'start' then unique = '' end
  if unique ~= '' or (tonumber(until_ms) or 0) <= now_ms then return unique, false end
  return window, true
end

local function add_waiting(id, state, priority, due_ms, fields, is_held, window, number, stale)
  local key, is_window = key_of(fields, window) -- before `delay` changes the fields
  if stale then redis.call('ZREM', KEYS.due, stale) end
  local is_suspended = state == 'suspended' -- until `promote` wakes it, even if its time has come
  if is_suspended or due_ms and due_ms > now_ms then
    if delay(id, priority, fields, due_ms or '+inf', line(exact_ms, number), is_suspended) then
      earliest = math.min(earliest or due_ms, due_ms)
    end
  else
    enqueue(priority, id, fields)
  end
  if is_held then redis.call('HSET', KEYS.held, id, whole(now_ms)) end
  if is_window then
    keep_until(KEYS['unique:'] .. key, id, window)
  elseif key ~= '' then
    redis.call('SET', KEYS['unique:'] .. key, id)
  end
  forget_ends({id})
end

-- Add a dead letter or a kept job. Return whether the id now belongs to this job.
local function add_aside(id, state, priority, fields)
  local is_free, located = state == 'dead' or not is_taken(id), redis.call('HGET', KEYS.jobs, id)
  local notes = {}
  for _, name in ipairs({'fingerprint', 'reason'}) do -- its kind, by which a group lists it
    local value = state == 'dead' and field(fields, name)
    if value then notes[#notes + 1], notes[#notes + 2] = name, value end
  end
  local stream = aside[state]
  assert(set_aside(stream, priority, '', id, fields, notes, time_of(fields, 'failed_at', whole(now_ms))),
    stream .. ' has no entry ids left')
  if not is_free then redis.call('HSET', KEYS.jobs, id, located) end
  return is_free
end

-- Return why a job can't be added; nil: it can. Also return a leftover member of `due`.
local function against(id, state, fields, window, values)
  if values > 998 then return 'OVERSIZED' end -- plus its id
  local has_ended = state == 'completed' or state == 'cancelled'
  local taken, stale = false, nil
  if not has_ended then taken, stale = is_taken(id) end
  if taken then return 'EXISTS' end
  local key = aside[state] and '' or key_of(fields, window)
  if key == '' then return nil, stale end
  local is_right, holding = pcall(key_holder, key, false, now_ms)
  if not is_right then return 'DUPLICATE' end
  return holding and 'DUPLICATE ' .. holding.id or nil, stale
end

-- Return the list at an index of ARGV, and the index after it.
local function list(at)
  local values = {}
  for i = at + 1, at + tonumber(ARGV[at]) do values[#values + 1] = ARGV[i] end
  return values, at + #values + 1
end

local function write_hash(key, values)
  redis.call('DEL', key)
  for i = 1, #values, 1000 do redis.call('HSET', key, unpack(values, i, math.min(i + 999, #values))) end
end

-- Return the index of ARGV after the job at `at`. With `id`, keep the job's saved steps, its signals, and how its
-- children have ended.
local function pass(at, id)
  local _, saved, signals, groups, group
  _, at = list(at + 11)
  saved, at = list(at)
  signals, at = list(at)
  groups, at = tonumber(ARGV[at]), at + 1
  if id and #saved > 0 then write_hash(KEYS['steps:'] .. id, saved) end
  if id and #signals > 0 then keep_signals(id, signals) end
  for _ = 1, groups do
    local token = ARGV[at]
    group, at = list(at + 1)
    if id then write_hash(KEYS['children:'] .. token, group) end
  end
  return at
end

local function import(at, number)
  local place, id, state, priority, due_ms = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3],
    tonumber(ARGV[at + 4])
  local window, values = ARGV[at + 6], tonumber(ARGV[at + 11])
  local was_refused = redis.call('HGET', noted, place)
  if place <= last and not was_refused then return 'REPEATED' end
  local fields = values <= 998 and list(at + 11) or {}
  if field(fields, 'id') ~= id then fields = with(fields, {'id', id}) end
  local why, stale = against(id, state, fields, window, values)
  if why then
    redis.call('HSET', noted, place, why)
  elseif not aside[state] then
    add_waiting(id, state, priority, due_ms, fields, ARGV[at + 5] == '1', window, number, stale)
  elseif add_aside(id, state, priority, fields) then
    keep_ending(id, state, ARGV[at + 7], ARGV[at + 8], ARGV[at + 9], ARGV[at + 10])
  end
  if not why then pass(at, id) end
  if was_refused and not why then redis.call('HDEL', noted, place) end
  if place > last then
    last = place
    redis.call('HSET', noted, 'last', last) -- at once, in case the next job ends the script
  end
  return why or 'OK'
end

local words, at = {}, first_job
while at <= #ARGV do
  words[#words + 1] = import(at, #words)
  at = pass(at)
end
if earliest then tell('due ' .. whole(earliest)) end
return words
