#!lua flags=no-writes,allow-oom
-- scan: list jobs of one state that match a filter, in steps. Ready and running jobs come by priority and age,
-- delayed jobs by due time, and suspended jobs by the latest end of their wait. Dead letters and ended jobs come
-- newest first. Writes nothing.
--
-- A step begins after the place of the last job that the step before looked at, even if that job is gone. So a
-- later step returns no new dead letter, and no job twice while it stays in its place.
--
-- ARGV[1]  state         ready, running, delayed, suspended, dead, completed or cancelled
-- ARGV[2]  after         where the step before stopped; '' to begin
-- ARGV[3]  limit         int     most jobs to list
-- ARGV[4]  name          of the job; '': any
-- ARGV[5]  text          part of its parameters or its error; '': any
-- ARGV[6]  fingerprint   of the failure of a dead letter; '': any
-- ARGV[7]  reason        of a dead letter; '': any
-- ARGV[8]  worker        that has it; for ended jobs and dead letters, that had it; '': any
-- ARGV[9]  older_ms      int ms  since it was pushed, died or ended; '': any
-- ARGV[10] now_ms        int ms; '' = the server's clock
-- Returns  {after, row, ...}: where the next step begins, '' at the end; and the jobs' rows, see include/viewer

--- @include now viewer field mark_of passes time_of holder is_waiting page bytes_of streams leases has_many parted
--- @include stored entry_at walk walk_back walk_group rank_after
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local state, after, limit, older_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[9])
local wanted = {name = ARGV[4], text = ARGV[5], fingerprint = ARGV[6], reason = ARGV[7], worker = ARGV[8]}
local now_ms = now(ARGV[10])
wanted.until_ms = older_ms and now_ms - older_ms
local show = viewer(now_ms)

local rows, looked, bytes = {}, 0, 0

local function add_ready(stream, entry, fields, consumer, deliveries, idle_ms)
  local place, id = string.match(stream, '[^:]+$'), field(fields, 'id')
  local mark = mark_of(id, place, entry)
  if mark then rows[#rows + 1] = show(id, place, entry, fields, mark, '', consumer, deliveries, idle_ms) end
end

local function is_wanted(fields, since, entry)
  return passes(wanted, fields, time_of(fields, since, entry))
end

local function is_over()
  return #rows >= limit or page(looked, bytes) == 0
end

local function younger(stream, from, many)
  return redis.pcall('XRANGE', stream, from, '+', 'COUNT', many)
end

local function look_at(stream, found)
  local entry, fields = found[1], found[2]
  local consumer, deliveries, idle_ms = holder(stream, entry)
  if is_waiting(consumer) and is_wanted(fields, 'queued_at', entry) then
    add_ready(stream, entry, fields, consumer, deliveries, idle_ms)
  end
  bytes = bytes + bytes_of(fields)
  return bytes_of(fields), is_over()
end

local function look_at_aside(entry, fields)
  local id = field(fields, 'id') or ''
  if id ~= '' and is_wanted(fields, state == 'dead' and 'failed_at' or 'finished_at', entry) then
    rows[#rows + 1] = show(id, state, entry, fields, '')
  end
  bytes = bytes + bytes_of(fields)
  return is_over()
end

-- Return the oldest leases of these consumers, in order, up to about 2,000. If one consumer has far more than the
-- others there are fewer: the list ends where that consumer's page ends.
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

-- Return the next leases, oldest first, and whether there are no more. Far more jobs may wait than run. Then ask
-- each consumer, if there are few, at most twice in a step.
local asked, one_worker = 0, wanted.worker
local function running(stream, from)
  if one_worker ~= '' then return leases_of(stream, {one_worker}, from) end
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

local function walk_running(number, from)
  while streams[number] do
    local stream = streams[number]
    local page, is_end = running(stream, from)
    for _, lease in ipairs(page) do
      local entry, consumer, idle_ms, deliveries = unpack(lease)
      local fields = not is_waiting(consumer) and entry_at(stream, entry) or nil
      looked, bytes, from = looked + (fields and 1 or 0.1), bytes + bytes_of(fields or {}), '(' .. entry
      if fields and is_wanted(fields, 'queued_at', entry) then
        add_ready(stream, entry, fields, consumer, deliveries, idle_ms)
      end
      if is_over() then return number, from end
    end
    if asked >= 2 and not is_end then return number, from end
    if is_end then number, from = number + 1, '-' end
  end
  return 0, ''
end

local function add_delayed(member, score)
  local line, job = parted(member)
  local fields, priority = stored(job, 'delayed')
  bytes = bytes + bytes_of(fields or {})
  if not fields then return end
  local since_ms = math.floor(tonumber(string.match(line, '^%d+') or 0) / 1000)
  if is_wanted(fields, 'queued_at', string.format('%.0f', since_ms)) then
    rows[#rows + 1] = show(job, 'delayed:' .. priority, '', fields, state == 'suspended' and state or '', score)
  end
end

local function walk_delayed(index)
  local score, last = string.match(after, '^(%S+) (.*)$')
  local rank = score and rank_after(index, tonumber(score), last) or 0
  local members = redis.call('ZRANGE', index, rank, rank + 499, 'WITHSCORES')
  for i = 1, #members, 2 do
    looked = looked + 1
    add_delayed(members[i], members[i + 1])
    if is_over() then return members[i + 1] .. ' ' .. members[i] end
  end
  return ''
end

local left_off = ''
if state == 'ready' or state == 'running' then
  local number, from = string.match(after, '^(%d) (%S+)$')
  number, from = tonumber(number or 1), from or '-'
  if state == 'ready' then
    number, from = walk(number, from, 1048576, younger, look_at)
  else
    wanted.worker = '' -- the leases all belong to this worker
    number, from = walk_running(number, from)
  end
  left_off = number > 0 and number .. ' ' .. from or ''
elseif state == 'delayed' or state == 'suspended' then
  left_off = walk_delayed(state == 'delayed' and KEYS.due or KEYS.suspended)
elseif aside[state] then
  if state == 'dead' and wanted.fingerprint ~= '' then
    left_off = walk_group(wanted.fingerprint, after, look_at_aside)
  else
    left_off = walk_back(aside[state], after, look_at_aside)
  end
end
return {left_off, unpack(rows)}
