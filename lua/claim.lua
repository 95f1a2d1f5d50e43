#!lua flags=allow-oom
-- claim: push what is in the inbox, promote due jobs, then lease jobs by priority: first those that were handed back,
-- then new ones. Jobs that may not start are parked, or put in a waiting line.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     most jobs to lease; 0 only promotes
-- ARGV[3]  most_bytes    int     stop once the jobs that were looked at have this many bytes
-- ARGV[4]  max_deliveries int    deliveries without an outcome before a job becomes a dead letter, the last one alone
-- ARGV[5]  idle          '1': the worker runs nothing and has asked for nothing else, so it may get a job that has to run alone
-- ARGV[6]  now_ms        int ms; '' = the server's clock
--
-- Returns  {now_us, due_in, finds, {unread 1..3, readable 1..3}, turn_in, waits_ms, jobs, ended}: the first five as settle returns
--          them, after this claim; for how many ms a job has waited for an idle worker, the first of a stream (-1: none); for each
--          job {stream 1..3, entry, deliveries, {name, value, ...}}; for each that ended instead {id, word}. Or one word, FENCED:
--          CANCELLED  a cancel was asked for while it ran: gone
--          DEAD       it kills its workers: it is a dead letter
--          UNDECODABLE no push has added it, or it can be no job: it is a dead letter
--          FENCED     the worker has no record any more; nothing was written

--- @include now alive expect streams restrictions limiter leases is_older slot kept ends take_in promote take_turns entry_at
--- @include mark_of field reject finish_one whole hand_back bytes_of dead_letter make_group tell_others prospect
--- @include tell next_turn


local worker, most, most_bytes, max_deliveries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local idle = ARGV[5] == '1'
local now_ms, exact_ms = now(ARGV[6])
local now_us = math.floor(exact_ms * 1000 + 0.5)
local ending = {}

if not alive(worker) then return 'FENCED' end
expect('stream', unpack(streams))
expect('hash', KEYS.jobs)
if expect('zset', KEYS.due) then expect('hash', KEYS.delayed) end
local restricted = restrictions()
if restricted and restricted.all then most = 0 end
local takes_turns = most > 0 and redis.call('EXISTS', KEYS.turns) == 1
local limiting = nil
if takes_turns or restricted and restricted.limited then
  expect('hash', KEYS.shares)
  expect('zset', KEYS.turns, KEYS.lines)
  limiting = limiter(now_ms, now_us)
end
local claimed = {}
local function runs_nothing()
  if not idle or #claimed > 0 then return false end
  for _, stream in ipairs(streams) do
    if #(leases(stream, '-', '+', 1, worker) or {}) > 0 then return false end
  end
  return true
end

-- Put the next job that has to run alone in its place among those that were handed back, if this worker is idle.
local function with_one_alone(stream, from, page)
  local first = runs_nothing() and leases(stream, from, '+', 1, 'alone')[1]
  if not first then return page end
  local at = 1
  while page[at] and is_older(page[at][1], first[1]) do at = at + 1 end
  if at <= most - #claimed then table.insert(page, at, first) end
  return page
end

-- The jobs that were handed back, from `from` on, as many as may be claimed; nil if the stream has no group.
local function handed_back(stream, from)
  local page = leases(stream, from, '+', most - #claimed, 'released')
  return page and with_one_alone(stream, from, page)
end

local released, any_released = {}, takes_turns
local function look_at_released()
  for number, stream in ipairs(most > 0 and streams or {}) do
    released[number] = handed_back(stream, '-')
    any_released = any_released or #(released[number] or {}) > 0
  end
end
look_at_released()
if any_released then
  expect('stream', KEYS.dead)
  expect('set', slot(now_ms))
  ending.kept = kept()
  ending.ends = ends()
end
local ended = take_in(now_ms, exact_ms)
local due_in, turned, sees_to_turns = promote(now_ms, exact_ms), 0, false
if takes_turns then
  turned, sees_to_turns = take_turns(now_ms, now_us)
  if turned > 0 then look_at_released() end
end

local bytes, goes_on = 0, false
local parked = 0 -- or put in a waiting line, or with those that have to run alone
local passed_over = 0 -- bytes of those

-- Give this worker an entry that was delivered before, as XPENDING returned it. If a cancel was asked for while it ran, it ends
-- instead. If it was delivered `max_deliveries` times without an outcome, the last time alone, it kills its workers, and becomes
-- a dead letter. That last delivery goes to an idle worker, so that no other job dies with it or is blamed for it; its locator
-- gets the mark `alone`. (A `max_deliveries` of 1 allows no second delivery, so it is blamed without that.)
--
-- Returns the fields, and whether it has to run alone; or nil, and why: `ended`; `parked`, which includes a waiting line and
-- `alone`; or `stays`: this worker is not idle, nothing was written
local function deliver(stream, pending)
  if pending[2] == 'alone' and not runs_nothing() then return nil, 'stays' end
  local entry, deliveries = pending[1], pending[4] + 1
  local fields = entry_at(stream, entry)
  if not fields then -- deleted while it was leased
    redis.call('XACK', stream, 'workers', entry)
    return nil, 'ended'
  end
  local place = string.match(stream, '[^:]+$')
  local job = field(fields, 'id')
  local mark = mark_of(job, place, entry)
  if not mark then
    local why = (job or '') == '' and 'no job: its entry has no id' or 'no job: the job ' .. job .. ' is elsewhere'
    table.insert(ended, {reject(stream, entry, fields, why, now_ms), 'UNDECODABLE'})
    return nil, 'ended'
  end
  if mark == 'cancelling' then
    finish_one(ending, 'cancelled', stream, entry, job, fields, now_ms, {'deliveries', whole(deliveries - 1)})
    if restricted and restricted.job then redis.call('HDEL', KEYS.held, job) end
    if limiting then limiting.pass(fields) end
    table.insert(ended, {job, 'CANCELLED'})
    return nil, 'ended'
  end
  local function pass_over(to)
    if to then hand_back(stream, deliveries - 1, {entry}, to, pending[3]) end
    parked, passed_over = parked + 1, passed_over + bytes_of(fields)
    return nil, 'parked'
  end
  if restricted and restricted.job and restricted.job(job, fields) then
    if limiting then limiting.pass(fields) end
    return pass_over('parked')
  end
  if deliveries > max_deliveries and (mark == 'alone' or max_deliveries == 1) then
    local alone = mark == 'alone' and ', the last time with nothing beside it' or ''
    dead_letter(ending.ends, stream, entry, job, fields, {
      'reason', 'worker lost',
      'error', 'delivered ' .. (deliveries - 1) .. ' times without an outcome' .. alone .. ': it may kill its workers',
      'failed_at', whole(now_ms), 'worker', worker, 'deliveries', tostring(deliveries - 1),
    }, now_ms)
    if limiting then limiting.pass(fields) end
    table.insert(ended, {job, 'DEAD'})
    return nil, 'ended'
  end
  local is_last = deliveries >= max_deliveries and max_deliveries > 1
  if is_last and not runs_nothing() then
    if limiting then limiting.pass(fields) end
    return pass_over('alone')
  end
  local bucket = limiting and limiting.start(place .. ' ' .. entry, fields, true)
  if bucket then
    limiting.line_up(stream, deliveries - 1, {entry}, bucket)
    return pass_over()
  end
  redis.call('XCLAIM', stream, 'workers', worker, 0, entry, 'RETRYCOUNT', deliveries, 'JUSTID')
  if is_last then
    redis.call('HSET', KEYS.jobs, job, place .. ' ' .. entry .. ' alone')
  elseif mark == 'alone' then
    redis.call('HSET', KEYS.jobs, job, place .. ' ' .. entry)
  end
  return fields, is_last
end

local function take_released(number, stream)
  local page, looked, last = released[number], 0, nil
  if not page then
    make_group(stream)
    return
  end
  while #page > 0 and most > #claimed do
    local rest = {}
    for i, pending in ipairs(page) do
      if most == #claimed then return end
      looked, last = looked + 1, pending[1]
      local fields, how = deliver(stream, pending)
      if fields then
        claimed[#claimed + 1] = {number, pending[1], pending[4] + 1, fields}
        bytes = bytes + bytes_of(fields)
        if how or bytes >= most_bytes then most = #claimed return end
      elseif how == 'parked' and passed_over >= most_bytes then
        goes_on = true
        return
      elseif pending[2] == 'alone' then -- the next that has to run alone may come before the rest
        rest = {unpack(page, i + 1)}
        break
      end
    end
    -- Again if some did not start: new jobs must not pass those behind them.
    if looked >= 500 then
      goes_on = #ended + parked > 0 -- else the next claim would look at the same ones
      return
    end
    local from = '(' .. last
    page = #rest > 0 and with_one_alone(stream, from, rest) or handed_back(stream, from)
  end
end

local function read_new(stream, many)
  local reply = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', many, 'STREAMS', stream, '>')
  return reply and reply[1][2] or {}
end

-- Whether a new entry may start. If not it is parked, or noted in `lines` under its bucket.
local function may_start(stream, place, id, fields, lines)
  if not restricted then return true end
  if restricted.job and restricted.job(field(fields, 'id') or '', fields) then
    hand_back(stream, 0, {id}, 'parked') -- as never delivered
    return false
  end
  local bucket = limiting and limiting.start(place .. ' ' .. id, fields)
  if not bucket then return true end
  lines[bucket] = lines[bucket] or {}
  table.insert(lines[bucket], id)
  return false
end

-- Few at a time, as a read does not know sizes: one, then one more than were seen so far, up to 32, or 4 if large ones are noted.
local function take_new(number, stream)
  local looked, lines, place = 0, {}, string.match(stream, '[^:]+$')
  local at_once = redis.pcall('HGET', KEYS.large, place) and 4 or 32
  while most > #claimed and not goes_on do
    local step = math.min(most - #claimed, looked + 1, at_once)
    local entries = read_new(stream, step)
    for _, entry in ipairs(entries) do
      local id, fields = entry[1], entry[2]
      if may_start(stream, place, id, fields, lines) then claimed[#claimed + 1] = {number, id, 1, fields} end
      bytes = bytes + bytes_of(fields)
    end
    looked = looked + #entries
    if #entries < step then break end
    goes_on = looked >= 500 or bytes >= most_bytes
  end
  for bucket, waiting in pairs(lines) do limiting.line_up(stream, 0, waiting, bucket) end
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

-- If there was room for more and all were looked at, the rest waits for an idle worker.
local finds, unread = restricted and 2 or 0, {0, 0, 0, 0, 0, 0}
if #claimed >= most or goes_on then finds, unread = prospect(restricted) end
if turned > 0 and finds % 2 == 1 then tell('released ' .. turned) end -- more than this worker has room for
local turn_in = limiting and not (restricted and restricted.all) and next_turn(exact_ms) or -1
if sees_to_turns or limiting and limiting.has_turned then finds = finds + 16 end
return {exact_ms * 1000, due_in, finds, unread, turn_in, waits_ms, claimed, ended}
