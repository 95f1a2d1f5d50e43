#!lua
-- fire: push the jobs of schedules, each slot once. Refused whole when Redis is out of memory.
-- The first scheduler that asks for a slot moves the schedule's last slot. Other schedulers find it moved.
--
-- ARGV[1]  now_ms    int ms; '' = the server's clock
-- ARGV[2]  scheduler the caller's id; tells a repeated call from another scheduler's
-- ARGV[3..] for each schedule: name, fingerprint of its definition, its last slot (ms) as the caller knows it, the
--           slot up to which it fires now (ms), how many slots it leaves out, number of jobs; then for each job
--           the values as for push: id, nonce, priority, due, unique key, unique_for, expires_in, on_conflict,
--           number of field values, names and values
-- Returns  {now_us, {word, ...}, ...}: the server's clock, and a word for each schedule. The call stops after it
--          has read 1 MB of the jobs that have these ids or keys. It then answers the first schedules only; send
--          the others again. The words:
--          OK       fired; after it a word for each job: OK, or one of the next three
--          EXISTS   a job with this id is on the queue; nothing was written for this job
--          DUPLICATE <id> that job holds the unique key; nothing was written for this job
--          REPLACED <id> that waiting job held the key, and has this job's content now; see push
--          REPEATED the same call fired these slots before; nothing was written
--          FIRED    another scheduler fired these slots, or later ones; the last slot follows; nothing was written
--          EARLY    the last of these slots is in the future; nothing was written
--          PAUSED   the schedule is paused; nothing was written
--          CHANGED  it has another definition by now, or is gone; nothing was written

--- @include now expect streams is_taken pusher schedule whole
local now_ms, exact_ms = now(ARGV[1])
local scheduler = ARGV[2]

-- Read everything before the first write.
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

local pushing = pusher(ARGV, now_ms, exact_ms)
local firings, at = {}, first_schedule
while at <= #ARGV do
  local firing, number = {at = at, starts = {}}, tonumber(ARGV[at + 5])
  at = at + 6
  for i = 1, number do
    firing.starts[i] = {at = at}
    at = pushing.take(at)
  end
  firings[#firings + 1] = firing
end

-- The jobs with these ids and keys may be large, and Redis serves nothing else while it reads them. So read none
-- for slots that have fired already. Once 1 MB was read, trust a locator without reading the job.
local counts, most_bytes = pushing.counts, 1048576
local function look_at(one)
  local read
  one.is_there, one.stale, read = is_taken(ARGV[one.at], counts.bytes >= most_bytes)
  counts.bytes = counts.bytes + read
  pushing.look_at(one.at)
end

local looked = 0
for i, firing in ipairs(firings) do
  if counts.bytes >= most_bytes then break end
  looked, firing.known = i, schedule(ARGV[firing.at])
  firing.word = verdict(firing.known, firing.at)
  for _, one in ipairs(firing.word == 'OK' and firing.starts or {}) do look_at(one) end
end

local function push(one)
  local keeper = pushing.keeper(one.at)
  if one.is_there then return 'EXISTS' end
  if keeper then return 'DUPLICATE ' .. keeper.id end
  local replaced = pushing.add(one.at, one.stale)
  return replaced and 'REPLACED ' .. replaced or 'OK'
end

local answers = {}
for i = 1, looked do
  local firing = firings[i]
  local name, slot, missed = ARGV[firing.at], ARGV[firing.at + 3], tonumber(ARGV[firing.at + 4])
  local answer = {firing.word}
  if answer[1] == 'FIRED' then answer[2] = firing.known.last_slot end
  if answer[1] == 'OK' then
    for _, one in ipairs(firing.starts) do answer[#answer + 1] = push(one) end
    redis.call('HSET', KEYS['schedule:'] .. name, 'last_slot', slot, 'fired_slot', slot, 'fired_by', scheduler)
    local before = tonumber(firing.known.missed) or 0
    if missed > 0 then redis.call('HSET', KEYS['schedule:'] .. name, 'missed', whole(before + missed)) end
  end
  answers[i] = answer
end
pushing.write()
return {exact_ms * 1000, unpack(answers)}
