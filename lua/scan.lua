#!lua flags=no-writes,allow-oom
-- scan: list jobs of one state that a filter lets through, in steps: ready and running ones by priority and age,
-- delayed ones by due time, dead letters and ended ones newest first. A step looks at 500 jobs or about 1 MB. Writes
-- nothing.
--
-- A step goes on after the place of the last job that the one before looked at, even if that job is gone. So a new dead
-- letter does not come up in a later step, and no job comes twice in one place.
--
-- ARGV[1]  state         ready, running, delayed, dead, completed or cancelled
-- ARGV[2]  after         where the step before stopped; '' to begin
-- ARGV[3]  limit         int     most jobs to list
-- ARGV[4]  name          of the job; '': any
-- ARGV[5]  text          part of its parameters or its error; '': any
-- ARGV[6]  fingerprint   of the failure of a dead letter; '': any
-- ARGV[7]  reason        of a dead letter; '': any
-- ARGV[8]  older_ms      int ms  since it was pushed, died or ended; '': any
-- ARGV[9]  now_ms        int ms; '' = the server's clock
--
-- Returns  {after, row, ...}: where the next step goes on, '' at the end; and jobs as find returns them

--- @include now obstacle whole field mark_of is_held reported passes time_of holder is_waiting page bytes_of streams
--- @include leases has_many parted stored first_id before

local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local state, after, limit, older_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[8])
local wanted = {name = ARGV[4], text = ARGV[5], fingerprint = ARGV[6], reason = ARGV[7]}
local now_ms = now(ARGV[9])
wanted.until_ms = older_ms and now_ms - older_ms
local why = obstacle(now_ms)

local rows, looked, bytes, at = {}, 0, 0, whole(now_ms)

local function add(stream, entry, consumer, deliveries, idle)
  local place = string.match(stream, '[^:]+$')
  local id = field(entry[2], 'id') or ''
  local mark = aside[state] and '' or mark_of(id, place, entry[1])
  if id == '' or not mark then return end -- it is no job
  local is_on_hold, kept_from = is_held(id), ''
  if state == 'ready' then kept_from = why(consumer, is_on_hold, entry[2]) end
  local said = aside[state] and '' or reported(id)
  rows[#rows + 1] = {id, place, entry[1], '', state == 'running' and consumer or '', deliveries or '', mark, is_on_hold,
    entry[2], at, idle or '', kept_from, said}
end

local function add_ready(stream, entry)
  if not passes(wanted, entry[2], time_of(entry[2], 'queued_at', entry[1])) then return end
  local consumer, deliveries = holder(stream, entry[1])
  if is_waiting(consumer) then add(stream, entry, consumer, deliveries) end
end

local function add_aside(stream, entry)
  local since = state == 'dead' and 'failed_at' or 'finished_at'
  if passes(wanted, entry[2], time_of(entry[2], since, entry[1])) then add(stream, entry) end
end

local function is_over()
  return #rows >= limit or page(looked, bytes) == 0
end

-- Look at the entries of a stream after `last`. Returns where it stopped; nil at the end.
local function walk(stream, last, read, offer)
  while not is_over() do
    local many = page(looked, bytes)
    local found = read(stream, last, many)
    if found.err then -- nothing comes after the largest entry id there is, and nothing before the smallest
      if string.find(found.err, 'invalid %a+ ID') then return nil end
      return error(found)
    end
    for _, entry in ipairs(found) do
      looked, bytes, last = looked + 1, bytes + bytes_of(entry[2]), entry[1]
      offer(stream, entry)
      if is_over() then return last end
    end
    if #found < many then return nil end
  end
  return last
end

local function younger(stream, last, many)
  return redis.pcall('XRANGE', stream, last == '' and '-' or '(' .. last, '+', 'COUNT', many)
end

local function walk_streams(walk_stream)
  local number, last = string.match(after, '^(%d) (%S*)$')
  number, last = tonumber(number or 1), last or ''
  while streams[number] do
    local left_off = walk_stream(streams[number], last)
    if left_off then return number .. ' ' .. left_off end
    number, last = number + 1, ''
  end
  return ''
end

-- The oldest leases of these consumers, as far as all of them are known: up to some 2,000, fewer if one has far more than others.
local function leases_of(stream, consumers, from)
  local most, page, orders, known = math.max(4, math.floor(2000 / #consumers)), {}, {}, nil
  for _, consumer in ipairs(consumers) do
    local some = leases(stream, from, '+', most, consumer) or {}
    for _, lease in ipairs(some) do
      local ms, sequence = string.match(lease[1], '^(%d+)-(%d+)$') -- they may be too large for numbers of Lua
      orders[lease[1]] = string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #sequence) .. sequence
      page[#page + 1] = lease
    end
    local last = #some == most and some[most][1]
    if last and (not known or orders[last] < orders[known]) then known = last end
  end
  table.sort(page, function(one, other) return orders[one[1]] < orders[other[1]] end)
  while known and orders[page[#page][1]] > orders[known] do page[#page] = nil end
  return page, not known
end

-- The next leases, oldest first, with those of running jobs; and whether there are no more. Far more may wait than run: then each
-- consumer is asked, if there are few, and at most twice in a step.
local asked = 0
local function running(stream, from)
  local consumers, waiting = {}, 0
  for _, consumer in ipairs(not has_many(stream) and (leases(stream) or {})[4] or {}) do
    if is_waiting(consumer[1]) then
      waiting = waiting + tonumber(consumer[2])
    else
      consumers[#consumers + 1] = consumer[1]
    end
  end
  if #consumers == 0 and not has_many(stream) then return {}, true end
  if waiting > 2000 and #consumers <= 100 then
    asked = asked + 1
    return leases_of(stream, consumers, from)
  end
  local page = leases(stream, from, '+', 500) or {}
  return page, #page < 500
end

local function walk_running(stream, last)
  repeat
    local page, is_end = running(stream, last == '' and '-' or '(' .. last)
    for _, lease in ipairs(page) do
      local entry = not is_waiting(lease[2]) and redis.call('XRANGE', stream, lease[1], lease[1])[1]
      looked, bytes, last = looked + (entry and 1 or 0.1), bytes + bytes_of(entry and entry[2] or {}), lease[1]
      if entry and passes(wanted, entry[2], time_of(entry[2], 'queued_at', entry[1])) then
        add(stream, entry, lease[2], lease[4], lease[3])
      end
      if is_over() then return last end
    end
    if asked >= 2 and not is_end then return last end
  until is_end
  return nil
end

-- As Redis compares members of one score; Lua's own `<` depends on the locale.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- The rank of the first delayed job after a place; the job of that place may be gone.
local function rank_after(score, member)
  local low, high = 0, redis.call('ZCARD', KEYS.due)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call('ZRANGE', KEYS.due, middle, middle, 'WITHSCORES')
    local other = tonumber(found[2])
    if other < score or other == score and not is_before(member, found[1]) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function add_delayed(member, score)
  local line, job = parted(member)
  local fields, priority = stored(job, 'delayed')
  bytes = bytes + bytes_of(fields or {})
  if not fields then return end
  local since_ms = math.floor(tonumber(string.match(line, '^%d+') or 0) / 1000)
  if passes(wanted, fields, time_of(fields, 'queued_at', string.format('%.0f', since_ms))) then
    local is_on_hold = is_held(job)
    rows[#rows + 1] = {job, 'delayed:' .. priority, '', score, '', '', '', is_on_hold, fields, at, '',
      why(nil, is_on_hold, fields), reported(job)}
  end
end

local function walk_delayed()
  local score, last = string.match(after, '^(%S+) (.*)$')
  local rank = score and rank_after(tonumber(score), last) or 0
  local members = redis.call('ZRANGE', KEYS.due, rank, rank + 499, 'WITHSCORES')
  for i = 1, #members, 2 do
    looked = looked + 1
    add_delayed(members[i], members[i + 1])
    if is_over() then return members[i + 1] .. ' ' .. members[i] end
  end
  return ''
end

local left_off = ''
if state == 'ready' then
  left_off = walk_streams(function(stream, last) return walk(stream, last, younger, add_ready) end)
elseif state == 'running' then
  left_off = walk_streams(walk_running)
elseif state == 'delayed' then
  left_off = walk_delayed()
elseif aside[state] then
  local first = first_id(aside[state])
  local function older(stream, last, many) return before(stream, first, last, many) end
  left_off = walk(aside[state], after, older, add_aside) or ''
end
return {left_off, unpack(rows)}
