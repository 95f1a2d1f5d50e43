#!lua
-- fire: push the jobs of schedules, each slot once. Refused whole when Redis is out of memory.
--
-- Any number of schedulers, on any hosts, ask for the same slots. The first moves the schedule's last slot and pushes;
-- the others find it moved. So there is no lock, and a scheduler that dies leaves nothing behind.
--
-- ARGV[1]  now_ms    int ms; '' = the server's clock
-- ARGV[2]  scheduler who fires; tells a repeated call from another scheduler's
-- ARGV[3..] for each schedule: name, fingerprint of its definition, its last slot (ms) as the caller knows it, the slot up
--           to which it fires now (ms), how many slots it leaves out, number of jobs; then for each job what push
--           takes: id, nonce, priority, due, unique key, unique_for, expires_in, on_conflict, number of field values, names
--           and values
--
-- Returns  {now_us, {word, ...}, ...}: the server's clock, and a word for each schedule. If the jobs that have the ids or keys are
--          large, only for the first schedules, until 1 MB of them was read: ask for the others in another call. The words:
--          OK       fired; after it a word for each job: OK, or one of the next three
--          EXISTS   a job of this id is on the queue; nothing was written for this one
--          DUPLICATE <id> that job holds the unique key; nothing was written for this one
--          REPLACED <id> that waiting job held it, and is now what this one says; see push
--          REPEATED this very call fired them before; nothing was written
--          FIRED    another scheduler fired them, or they lie behind: after it the last slot; nothing was written
--          EARLY    the last of them is yet to come; nothing was written
--          PAUSED   the schedule is paused; nothing was written
--          CHANGED  it has another definition by now, or is gone; nothing was written

--- @include stream_of now expect streams stored bytes_of key_holder schedule add_job whole count tell

stream_of.dead = KEYS.dead
local now_ms, exact_ms = now(ARGV[1])
local scheduler = ARGV[2]

-- All is read before the first write.
expect('stream', unpack(streams))
expect('hash', KEYS.jobs, KEYS.delayed)
expect('zset', KEYS.due)
local first_schedule = 3
local function verdict(known, at)
  local fingerprint, last, slot = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if type(known) ~= 'table' or known.fingerprint ~= fingerprint then return 'CHANGED' end
  if known.paused == '1' then return 'PAUSED' end
  local seen = tonumber(known.last_slot)
  if seen == slot and known.fired_by == scheduler then return 'REPEATED' end
  if seen ~= last or slot <= seen then return 'FIRED' end
  return slot > now_ms and 'EARLY' or 'OK'
end

local firings, asked, at = {}, {}, first_schedule -- asked: keys whose holder a job would replace
while at <= #ARGV do
  local firing, number = {at = at, starts = {}}, tonumber(ARGV[at + 5])
  at = at + 6
  for i = 1, number do
    firing.starts[i] = {at = at}
    if ARGV[at + 7] == 'replace' then asked[ARGV[at + 4]] = true end
    at = at + 9 + tonumber(ARGV[at + 8])
  end
  firings[#firings + 1] = firing
end

-- The jobs that have these ids and keys may be large, and Redis serves nothing else while they are read. So none is read for
-- slots that are fired already; and once 1 MB was read, a locator is taken at its word.
local holders, bytes, most_bytes = {}, 0, 1048576
local function look_at(one)
  local job, key = ARGV[one.at], ARGV[one.at + 4]
  local located = redis.call('HGET', KEYS.jobs, job)
  local place = located and string.match(located, '^%l*')
  if bytes >= most_bytes then
    one.is_there = place == 'delayed' or stream_of[place or ''] ~= nil
  elseif located then
    local fields = stored(stream_of, job, located)
    local stale = not fields and string.match(located, '^delayed (%S+)')
    one.is_there, one.stale = fields ~= nil, stale and stale .. ' ' .. job
    bytes = bytes + bytes_of(fields or {})
  end
  if key ~= '' and holders[key] == nil then
    local holding, read = key_holder(key, asked[key], now_ms)
    holders[key], bytes = holding or false, bytes + read
  end
end

local looked = 0
for i, firing in ipairs(firings) do
  if bytes >= most_bytes then break end
  looked, firing.known = i, schedule(ARGV[firing.at])
  firing.word = verdict(firing.known, firing.at)
  for _, one in ipairs(firing.word == 'OK' and firing.starts or {}) do look_at(one) end
end

local pushed, replaced, earliest, number = 0, 0, nil, 0
local function add(one)
  local key = ARGV[one.at + 4]
  number = number + 1
  if one.is_there then return 'EXISTS' end
  local holder = holders[key]
  if holder and not (ARGV[one.at + 7] == 'replace' and holder.notes) then return 'DUPLICATE ' .. holder.id end
  local first, waits = add_job(ARGV, one.at, now_ms, exact_ms, number, one.stale, nil, holder)
  if key ~= '' then holders[key] = waits end
  earliest = first or earliest
  if holder then
    replaced = replaced + 1
    return 'REPLACED ' .. holder.id
  end
  pushed = pushed + 1
  return 'OK'
end

local answers = {}
for i = 1, looked do
  local firing = firings[i]
  local name, slot, missed = ARGV[firing.at], ARGV[firing.at + 3], tonumber(ARGV[firing.at + 4])
  local answer = {firing.word}
  if answer[1] == 'FIRED' then answer[2] = firing.known.last_slot end
  if answer[1] == 'OK' then
    for _, one in ipairs(firing.starts) do answer[#answer + 1] = add(one) end
    redis.call('HSET', KEYS['schedule:'] .. name, 'last_slot', slot, 'fired_slot', slot, 'fired_by', scheduler)
    local before = tonumber(firing.known.missed) or 0
    if missed > 0 then redis.call('HSET', KEYS['schedule:'] .. name, 'missed', whole(before + missed)) end
  end
  answers[i] = answer
end
if pushed > 0 then count('pushed', pushed) end
if replaced > 0 then count('replaced', replaced) end
if earliest then tell('due ' .. whole(earliest)) end
return {exact_ms * 1000, unpack(answers)}
