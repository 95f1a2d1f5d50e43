#!lua flags=allow-oom
-- claim: push the entries of the inbox, promote due jobs, then lease jobs by priority. Jobs that were handed back
-- come first, then new jobs. A job that may not start is parked, or put in a waiting line.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     lease at most this many jobs; 0: only push the inbox, and promote
-- ARGV[3]  most_bytes    int     stop once the jobs looked at have this many bytes
-- ARGV[4]  max_deliveries int    deliveries without an outcome before a job becomes a dead letter; the last of
--                        them runs alone
-- ARGV[5]  idle          '1': the worker runs nothing and has no other request open, so it may get a job that must
--                        run alone
-- ARGV[6]  now_ms        int ms; '' = the server's clock
-- Returns  {now_us, due_in, finds, {unread 1..3, readable 1..3}, turn_in, waits_ms, jobs, ended}, or one word for
--          the call, FENCED. The first five are as in settle, after this claim.
--          waits_ms  ms that a job has waited for an idle worker; -1: none waits
--          jobs      for each leased job {stream 1..3, entry, deliveries, {name, value, ...}}
--          ended     for each job that the claim ended {id, word}. The words:
--          CANCELLED  a cancel was requested while it ran; it is gone
--          DEAD       it may kill its workers; it is a dead letter
--          UNDECODABLE no push has added it, or it can't be a job; it is a dead letter
--          FENCED     the worker's record is gone; nothing was written

--- @include now alive expect streams restrictions limiter leases is_older slot kept ends take_in promote
--- @include take_turns entry_at mark_of field reject finish_one whole hand_back bytes_of dead_letter remove
--- @include tell_others prospect tell due_in with_steps new_group
local worker, most, most_bytes, max_deliveries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local idle = ARGV[5] == '1'
local now_ms, exact_ms = now(ARGV[6])
local now_us = math.floor(exact_ms * 1000 + 0.5)

if not alive(worker) then return 'FENCED' end
expect('stream', unpack(streams))
expect('hash', KEYS.jobs)
if expect('zset', KEYS.due, KEYS.suspended) then expect('hash', KEYS.delayed) end
local restricted = restrictions()
local is_paused = restricted and restricted.all
if is_paused then most = 0 end
local takes_turns = most > 0 and redis.call('EXISTS', KEYS.turns) == 1
local limiting = nil
if takes_turns or restricted and restricted.limited then
  expect('hash', KEYS.shares)
  expect('zset', KEYS.turns, KEYS.lines)
  limiting = limiter(now_ms, now_us)
end

-- Jobs that were handed back come first. Some of them must run alone; only an idle worker gets those.
local claimed = {}
local function runs_nothing()
  if not idle or #claimed > 0 then return false end
  for _, stream in ipairs(streams) do
    if #(leases(stream, '-', '+', 1, worker) or {}) > 0 then return false end
  end
  return true
end

local function with_one_alone(stream, from, page)
  local first = runs_nothing() and leases(stream, from, '+', 1, 'alone')[1]
  if not first then return page end
  local at = 1
  while page[at] and is_older(page[at][1], first[1]) do at = at + 1 end
  if at <= most - #claimed then table.insert(page, at, first) end
  return page
end

-- Return leases of a stream that were handed back, from `from` on, up to the number that may be claimed. nil: the
-- stream has no group.
local function handed_back(stream, from)
  local page = leases(stream, from, '+', most - #claimed, 'released')
  return page and with_one_alone(stream, from, page)
end

local released, any_released = {}, takes_turns
local function look_at_released()
  for number, stream in ipairs(most > 0 and streams or {}) do
    released[number] = handed_back(stream, '-')
    if not released[number] then
      new_group(stream)
      released[number] = handed_back(stream, '-')
    end
    any_released = any_released or #(released[number] or {}) > 0
  end
end
look_at_released()
local ending = {}
if any_released then
  expect('stream', KEYS.dead)
  expect('set', slot(now_ms))
  ending.kept = kept()
  ending.ends = ends()
end

local ended = take_in(now_ms, exact_ms)
local next_due, turned, looks_at_turns = promote(now_ms, exact_ms, true), 0, false
if takes_turns then
  turned, looks_at_turns = take_turns(now_ms, now_us)
  if turned > 0 then look_at_released() end
end

local bytes, goes_on = 0, false -- bytes of claimed jobs; whether there is more to look at
local passed_over, passed_bytes = 0, 0 -- jobs that this claim has parked, put in a line, or passed to `alone`

-- Deliver an entry that was handed back, as XPENDING returned it. Return the outcome: `claimed`, `ended`, `passed
-- over`, or `stays`. A job `stays` if it must run alone and this worker is not idle.
--
-- A job that was delivered `max_deliveries` times without an outcome may kill its workers. Its last delivery ran
-- alone, on an idle worker, with the mark `alone` in its locator. So no other job dies with it, or is blamed for
-- it. If `max_deliveries` is 1 there is no second delivery, and the job is blamed at once.
local function deliver(number, stream, pending)
  if pending[2] == 'alone' and not runs_nothing() then return 'stays' end
  local entry, delivered = pending[1], pending[4]
  local fields = entry_at(stream, entry)
  if not fields then -- deleted while it was leased
    remove(stream, entry)
    return 'ended'
  end
  local place, job = string.match(stream, '[^:]+$'), field(fields, 'id')
  local mark = mark_of(job, place, entry)
  if not mark then
    local why = (job or '') == '' and 'no job: its entry has no id' or 'no job: the job ' .. job .. ' is elsewhere'
    table.insert(ended, {reject(stream, entry, fields, why, now_ms), 'UNDECODABLE'})
    return 'ended'
  end

  local function pass_over(to)
    if to then hand_back(stream, delivered, {entry}, to, pending[3]) end
    passed_over, passed_bytes = passed_over + 1, passed_bytes + bytes_of(fields)
    return 'passed over'
  end

  local is_last = delivered + 1 >= max_deliveries and max_deliveries > 1
  local outcome
  if mark == 'cancelling' then
    finish_one(ending, 'cancelled', stream, entry, job, fields, now_ms, {'deliveries', whole(delivered)})
    if restricted and restricted.job then redis.call('HDEL', KEYS.held, job) end
    table.insert(ended, {job, 'CANCELLED'})
    outcome = 'ended'
  elseif restricted and restricted.job and restricted.job(job, fields) then
    outcome = pass_over('parked')
  elseif delivered >= max_deliveries and (mark == 'alone' or max_deliveries == 1) then
    local alone = mark == 'alone' and ', the last time with nothing beside it' or ''
    dead_letter(ending.ends, stream, entry, job, fields, {
      'reason', 'worker lost',
      'error', 'delivered ' .. delivered .. ' times without an outcome' .. alone .. ': it may kill its workers',
      'failed_at', whole(now_ms), 'worker', worker, 'deliveries', tostring(delivered),
    }, now_ms)
    table.insert(ended, {job, 'DEAD'})
    outcome = 'ended'
  elseif is_last and not runs_nothing() then
    outcome = pass_over('alone')
  end
  if outcome then
    if limiting then limiting.pass(fields) end
    return outcome
  end

  local bucket = limiting and limiting.start(place .. ' ' .. entry, fields, true)
  if bucket then
    limiting.line_up(stream, delivered, {entry}, bucket)
    return pass_over()
  end
  redis.call('XCLAIM', stream, 'workers', worker, 0, entry, 'RETRYCOUNT', delivered + 1, 'JUSTID')
  if is_last or mark == 'alone' then
    redis.call('HSET', KEYS.jobs, job, place .. ' ' .. entry .. (is_last and ' alone' or ''))
  end
  claimed[#claimed + 1] = {number, entry, delivered + 1, with_steps(job, fields)}
  bytes = bytes + bytes_of(fields)
  if is_last or bytes >= most_bytes then most = #claimed end
  return 'claimed'
end

local function take_released(number, stream)
  local page, looked = released[number], 0
  while #page > 0 and most > #claimed do
    local rest, from = {}, nil
    for i, pending in ipairs(page) do
      if most == #claimed then return end
      looked, from = looked + 1, '(' .. pending[1]
      local outcome = deliver(number, stream, pending)
      if outcome == 'passed over' and passed_bytes >= most_bytes then
        goes_on = true
        return
      elseif outcome ~= 'claimed' and pending[2] == 'alone' then
        -- The next job of `alone` may come before the rest.
        rest = {unpack(page, i + 1)}
        break
      end
    end
    -- Continue if some jobs did not start: new jobs must not overtake the jobs after them.
    if looked >= 500 then
      goes_on = #ended + passed_over > 0 -- else the next claim would look at the same jobs
      return
    end
    page = #rest > 0 and with_one_alone(stream, from, rest) or handed_back(stream, from)
  end
end

-- Return whether a new entry may start. If not, park it, or note it in `lines` under its bucket.
local function may_start(stream, place, entry, fields, lines)
  if not restricted then return true end
  if restricted.job and restricted.job(field(fields, 'id') or '', fields) then
    hand_back(stream, 0, {entry}, 'parked') -- as if never delivered
    return false
  end
  local bucket = limiting and limiting.start(place .. ' ' .. entry, fields)
  if not bucket then return true end
  lines[bucket] = lines[bucket] or {}
  table.insert(lines[bucket], entry)
  return false
end

-- Read a few at a time, because a read can't limit bytes: one, then one more than were read before. A read has up
-- to 32 entries, or 4 if large jobs wait.
local function take_new(number, stream)
  local looked, lines, place = 0, {}, string.match(stream, '[^:]+$')
  local at_once = redis.pcall('HGET', KEYS.large, place) and 4 or 32
  while most > #claimed and not goes_on do
    local step = math.min(most - #claimed, looked + 1, at_once)
    local reply = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', step, 'STREAMS', stream, '>')
    local found = reply and reply[1][2] or {}
    for _, one in ipairs(found) do
      local entry, fields = one[1], one[2]
      if may_start(stream, place, entry, fields, lines) then claimed[#claimed + 1] = {number, entry, 1, fields} end
      bytes = bytes + bytes_of(fields)
    end
    looked = looked + #found
    if #found < step then break end
    goes_on = looked >= 500 or bytes >= most_bytes
  end
  for bucket, entries in pairs(lines) do limiting.line_up(stream, 0, entries, bucket) end
end

for number, stream in ipairs(streams) do
  if most > #claimed and not goes_on then take_released(number, stream) end
  if most > #claimed and not goes_on then take_new(number, stream) end
end
tell_others(ending.ends)

local waits_ms = -1
for _, stream in ipairs(most > 0 and streams or {}) do
  local first = (leases(stream, '-', '+', 1, 'alone') or {})[1]
  if first then waits_ms = math.max(waits_ms, first[3]) end
end
-- If the claim had room for more and looked at all jobs, the remaining jobs need an idle worker.
local finds, unread = restricted and 2 or 0, {0, 0, 0, 0, 0, 0}
if #claimed >= most or goes_on then finds, unread = prospect(restricted) end
if turned > 0 and finds % 2 == 1 then tell('released ' .. turned) end -- this worker has no room for some
if looks_at_turns or limiting and limiting.has_turned then finds = finds + 16 end
local turn_in = limiting and not is_paused and due_in(KEYS.turns, exact_ms) or -1
return {exact_ms * 1000, next_due, finds, unread, turn_in, waits_ms, claimed, ended}
