#!lua flags=allow-oom
-- claim: promote what is due, then lease up to `count` jobs to a worker, strictly by priority, first in
-- first out; a job that was released keeps its place before the new ones. One that has to run alone goes to the consumer
-- `alone`, unless this worker runs nothing, which takes it from there in its place; one that may not start now, as its name is
-- paused or it is held, to `parked`; one over its limit to a waiting line. Whose turn it is in such a line is handed back
-- first. Of a paused queue nothing is leased. A group that is missing is made.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
-- KEYS[8]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[9]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: see include/mark
-- KEYS[10] stats         hash    counters
-- KEYS[11] worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[12] retention     hash    state -> how long its jobs are kept: ms and count, `-` for no limit; '' not at all
-- KEYS[13] completed     stream  jobs that are done, where they are kept
-- KEYS[14] cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[15] paused        string  there while the queue is paused
-- KEYS[16] paused:names  hash    job names that are paused -> since when, ms
-- KEYS[17] held          hash    ids of jobs that are held -> since when, ms
-- KEYS[18] limits        hash    job name -> its limit, in words
-- KEYS[19] shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[20] holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[21] rate:         string  prefix; rate:<name> <key> has the theoretical arrival time of its next job, µs
-- KEYS[22] turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[23] lines         zset    names and keys that have a waiting line, in alphabetical order
-- KEYS[24] control       channel notifications
-- KEYS[25] result:       string  prefix; result:<id> is what the job's handler returned, JSON, where that is kept
-- KEYS[26] outcome:      string  prefix; outcome:<id> is how the job has ended, where its result is kept
-- KEYS[27] progress:     string  prefix; progress:<id> is what the job has reported last, JSON
-- KEYS[28] waiters       hash    job id -> processes that wait for its end
-- KEYS[29] waiter:       channel prefix; waiter:<process> has the notifications to one that waits
-- KEYS[30] large         hash    priority -> of unread jobs of 16 KB or more: the last entry, most bytes, bytes of all
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     most jobs to lease; 0 only promotes
-- ARGV[3]  most_bytes    int     no further job once those that were looked at have so many
-- ARGV[4]  max_deliveries int    this often a job is delivered without an outcome, the last time alone; then it is dead
-- ARGV[5]  idle          '1': the worker runs nothing and has asked for nothing else, so it may be given a job that
--                        has to run alone, as its workers were lost whenever it ran before
-- ARGV[6]  now_ms        int ms; '' = the server's clock
--
-- Returns  {now_us, due_in, ahead, {unread 1..3, readable 1..3}, turn_in, waits_ms, jobs, ended}: the first five as settle
--          does, after this claim; for how many ms a job has been waiting that needs a worker with nothing else to run, the
--          first of a stream (-1: none); for each job {stream 1..3, entry, deliveries, {name, value, ...}}; and for each that
--          was ended instead {id, word}. Or one word, FENCED:
--          CANCELLED  as was asked while it ran: gone
--          DEAD       it kills its workers: it is a dead letter
--          NO_IDS     as DEAD, but it stays, as `dead` has no entry ids left, by somebody's hand; nothing was written
--          FENCED     the worker has no record any more; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/alive"
--- @include "include/make_group"
--- @include "include/field"
--- @include "include/group"
--- @include "include/bytes_of"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/free"
--- @include "include/push_of"
--- @include "include/slot"
--- @include "include/mark"
--- @include "include/remember"
--- @include "include/pushed_at"
--- @include "include/count"
--- @include "include/remove"
--- @include "include/tell"
--- @include "include/ends"
--- @include "include/tell_waiters"
--- @include "include/conclude"
--- @include "include/tell_others"
--- @include "include/set_aside"
--- @include "include/dead_letter"
--- @include "include/kept"
--- @include "include/keep"
--- @include "include/finish"
--- @include "include/finish_one"
--- @include "include/unlocate"
--- @include "include/note_large"
--- @include "include/enqueue"
--- @include "include/unpacked"
--- @include "include/parted"
--- @include "include/promote"
--- @include "include/any_back"
--- @include "include/ahead"
--- @include "include/is_older"
--- @include "include/may_not_start"
--- @include "include/restrictions"
--- @include "include/prospect"
--- @include "include/hand_back"
--- @include "include/limit_of"
--- @include "include/arrival"
--- @include "include/room"
--- @include "include/take_share"
--- @include "include/give_up"
--- @include "include/limiter"
--- @include "include/hand_back_held"
--- @include "include/forget"
--- @include "include/false_holder"
--- @include "include/take_turns"
--- @include "include/next_turn"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local jobs, due, delayed, dead, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local stats, record = KEYS[10], KEYS[11] .. ARGV[1]
local retention, completed, cancelled = KEYS[12], KEYS[13], KEYS[14]
local paused, paused_names, held = KEYS[15], KEYS[16], KEYS[17]
local control = KEYS[24]
local result, outcome, progress, waiters, waiter = KEYS[25], KEYS[26], KEYS[27], KEYS[28], KEYS[29]
local worker, most, most_bytes, max_deliveries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local idle = ARGV[5] == '1'
local now_ms, exact_ms = now(ARGV[6])
local now_us = math.floor(exact_ms * 1000 + 0.5)
local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local keys = {streams = streams, jobs = jobs, due = due, delayed = delayed, unique = unique, stats = stats}
keys.dead, keys.ending = dead, slot(finished, now_ms)
keys.limits, keys.shares, keys.holders, keys.rate, keys.turns, keys.lines =
  KEYS[18], KEYS[19], KEYS[20], KEYS[21], KEYS[22], KEYS[23]
keys.paused_names, keys.large = paused_names, KEYS[30]

if not alive(record) then return 'FENCED' end
expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs)
expect('zset', due)
if redis.call('EXISTS', due) == 1 then expect('hash', delayed) end
local restricted = restrictions(paused, paused_names, held, keys.limits)
if restricted and restricted.all then most = 0 end
local takes_turns = most > 0 and redis.call('EXISTS', keys.turns) == 1
local limiting = nil
if takes_turns or restricted and restricted.limited then
  expect('hash', keys.shares)
  expect('zset', keys.turns, keys.lines)
  limiting = limiter(keys, now_ms, now_us)
end
local claimed = {}
local function runs_nothing()
  if not idle or #claimed > 0 then return false end
  for _, stream in ipairs(streams) do
    if #(leases(stream, '-', '+', 1, worker) or {}) > 0 then return false end
  end
  return true
end

-- Put the next one that has to run alone among those that were handed back, in its place, if this worker runs nothing: others
-- look at none of them.
local function with_one_alone(stream, from, page)
  local first = runs_nothing() and leases(stream, from, '+', 1, 'alone')[1]
  if not first then return page end
  local at = 1
  while page[at] and is_older(page[at][1], first[1]) do at = at + 1 end
  if at <= most - #claimed then table.insert(page, at, first) end
  return page
end

-- Those that were handed back, from there on, as many as may be claimed; nil where the stream has no group.
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
  expect('stream', dead)
  expect('set', keys.ending)
  keys.kept = kept(retention, completed, cancelled)
  keys.ends = ends(result, outcome, progress, waiters, waiter)
end
local due_in, turned, sees_to_turns = promote(keys, now_ms, exact_ms), 0, false
if takes_turns then
  turned, sees_to_turns = take_turns(keys, now_ms, now_us)
  if turned > 0 then look_at_released() end
end

local ended, bytes, goes_on = {}, 0, false
local parked = 0 -- or waiting in line, or for a worker that runs nothing
local passed_over = 0 -- bytes of those

-- Give this worker an entry that was delivered before, as XPENDING tells of it. If a cancel was asked for while
-- it ran, it is forgotten instead. If it was delivered `max_deliveries` times without an outcome, and its worker was lost
-- while it ran nothing else, it is what kills its workers, and becomes a dead letter. Before that it is delivered for the
-- last time to a worker that runs nothing beside it, so that no other job dies, or is judged, in its place; the locator
-- has the mark `alone` then. (With a `max_deliveries` of 1 no job is delivered twice: no proof can be had.)
--
-- Returns the fields if it was given, and whether it is to run alone; or nil, and why it was not: `ended`; `parked`, or in
-- line, or with those that have to run alone; or `stays`, with NO_IDS, or as one of these after others: nothing was written
local function deliver(stream, pending)
  if pending[2] == 'alone' and not runs_nothing() then return nil, 'stays' end
  local entry, deliveries = pending[1], pending[4] + 1
  local fields = entry_at(stream, entry)
  if not fields then -- removed by hand while it was leased
    unlocate(jobs, stream, entry)
    redis.call('XACK', stream, 'workers', entry)
    return nil, 'ended'
  end
  local place = string.match(stream, '[^:]+$')
  local job, mark = identify(places, jobs, place, entry, fields)
  if mark == 'cancelling' then
    finish_one(keys, 'cancelled', stream, entry, job, fields, now_ms, {'deliveries', whole(deliveries - 1)})
    if restricted and restricted.job then redis.call('HDEL', held, job) end
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
    local is_dead = dead_letter(keys, stream, entry, job, fields, {
      'reason', 'worker lost',
      'error', 'delivered ' .. (deliveries - 1) .. ' times without an outcome' .. alone .. ': it may kill its workers',
      'failed_at', whole(now_ms), 'worker', worker, 'deliveries', tostring(deliveries - 1),
    }, now_ms)
    if not is_dead then
      table.insert(ended, {job, 'NO_IDS'})
      return nil, 'stays'
    end
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
    redis.call('HSET', jobs, job, place .. ' ' .. entry .. ' alone')
  elseif mark == 'alone' then
    redis.call('HSET', jobs, job, place .. ' ' .. entry)
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
      elseif pending[2] == 'alone' then -- the next of its kind may come before the rest
        rest = {unpack(page, i + 1)}
        break
      end
    end
    -- Again where some of them were not to be delivered, or new jobs would pass those behind.
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

-- Whether a new entry may start. If not it is parked, or noted in `lines`, by what it is to wait in line for.
local function may_start(stream, place, id, fields, lines)
  if not restricted then return true end
  if restricted.job and restricted.job(identify(places, jobs, place, id, fields), fields) then
    hand_back(stream, 0, {id}, 'parked') -- as never delivered
    return false
  end
  local bucket = limiting and limiting.start(place .. ' ' .. id, fields)
  if not bucket then return true end
  lines[bucket] = lines[bucket] or {}
  table.insert(lines[bucket], id)
  return false
end

-- Few at a time, as a read says nothing of sizes: one, then one more than were seen by then, up to 32, or four where large
-- ones are noted. (They are noted but for those put in by hand.)
local function take_new(number, stream)
  local looked, lines, place = 0, {}, string.match(stream, '[^:]+$')
  local at_once = redis.pcall('HGET', keys.large, place) and 4 or 32
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

tell_others(keys.ends)
local waits_ms = -1
for _, stream in ipairs(most > 0 and streams or {}) do
  local first = (leases(stream, '-', '+', 1, 'alone') or {})[1]
  if first then waits_ms = math.max(waits_ms, first[3]) end
end

-- Where there was room for more, and all were looked at, what is left waits for a worker that runs nothing.
local finds, unread = restricted and 2 or 0, {0, 0, 0, 0, 0, 0}
if #claimed >= most or goes_on then finds, unread = prospect(streams, restricted, keys.large) end
if turned > 0 and finds % 2 == 1 then tell(control, 'released ' .. turned) end -- more than this worker has room for
local turn_in = limiting and not (restricted and restricted.all) and next_turn(keys.turns, exact_ms) or -1
if sees_to_turns or limiting and limiting.has_turned then finds = finds + 16 end
return {exact_ms * 1000, due_in, finds, unread, turn_in, waits_ms, claimed, ended}
