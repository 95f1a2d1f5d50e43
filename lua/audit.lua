#!lua flags=allow-oom
-- audit: check that the keys of a queue agree with each other, one step at a time. A step checks the entries of a
-- stream, or members of another key that the caller has listed. All of them are checked at one instant, so a busy
-- queue shows no false faults. A step ends after 500 entries or members, or about 1 MB. With `repair`, the script
-- makes corrections that lose no job.
--
-- ARGV[1]  part          what to check: entries, or of these members: due, suspended, delayed, jobs, held,
--                        waiters, signals, history, shares, lines, groups, letters, unique, steps, children,
--                        worker, holders, group, schedule
-- ARGV[2]  repair        '1' = correct it, '' = only look
-- ARGV[3]  place         of the entries: high, normal, low or dead; of letters: their kind; else ''
-- ARGV[4]  from          where to go on among the entries, as the last step said; - to begin
-- ARGV[5]  now_ms        int ms; '' = the server's clock
-- ARGV[6..] the members
-- Returns  {count, from, names, fault, ...}: how many were looked at; where to go on among the entries, '' at the
--          end; then {name, count, ...} of the entries that wait; and for each fault {kind, member, 1 if it was
--          corrected}

--- @include now expect streams stream_of holder is_waiting group field entry_at bytes_of is_older page member
--- @include parted unpacked wake line may_not_start alive free leases lost_turn give_up kind_of padded group_in
--- @include whole
local part, repairs, place, from = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]
local now_ms, exact_ms = now(ARGV[5])
local first_member = 6
local kept = {completed = KEYS.completed, cancelled = KEYS.cancelled}
local looked, bytes, faults, names = 0, 0, {}, {}

expect('hash', KEYS.jobs, KEYS.delayed, KEYS['paused:names'], KEYS.held, KEYS.layout, KEYS.shares,
  KEYS.limits, KEYS.waiters)
expect('hash', KEYS.history, KEYS.signals)
expect('zset', KEYS.due, KEYS.suspended, KEYS.workers, KEYS.fenced, KEYS.lines, KEYS.turns,
  KEYS.groups, KEYS.schedules)
expect('stream', KEYS.dead, KEYS.completed, KEYS.cancelled, unpack(streams))

-- Note a fault. `correct` corrects it; nil: this script can't.
local function fault(kind, what, correct)
  if repairs and correct then correct() end
  faults[#faults + 1] = {kind, what, repairs and correct and 1 or 0}
end

-- Return whether a job is where its locator says. With `of_kept`, an ended job that is kept counts too.
local function is_there(job, located, of_kept)
  local at, entry = string.match(located or '', '^(%S+) ?(%S*)')
  if at == 'delayed' then return redis.call('HEXISTS', KEYS.delayed, job) == 1 end
  local stream = stream_of[at or ''] or of_kept and kept[at or '']
  local fields = stream and entry_at(stream, entry)
  bytes = bytes + bytes_of(fields or {})
  return fields and field(fields, 'id') == job
end

local function locate_at(job, located)
  return function() redis.call('HSET', KEYS.jobs, job, located) end
end

-- Entries

-- Return a worker's lease. nil: the worker is fenced, or its record is gone or of another type.
local function lease_in(worker)
  return redis.call('TYPE', KEYS['worker:'] .. worker).ok == 'hash' and alive(worker) or nil
end

local has_record = {} -- by worker
local function is_known(worker)
  if has_record[worker] == nil then
    has_record[worker] = (lease_in(worker) or redis.call('ZSCORE', KEYS.fenced, worker)) and true or false
  end
  return has_record[worker]
end

local ours = part == 'entries' and place ~= 'dead' and group(stream_of[place])
local last_read = ours and field(ours, 'last-delivered-id')

local function check_lease(entry, id, fields)
  local consumer = holder(stream_of[place], entry)
  if is_waiting(consumer) then
    local name = field(fields, 'name') or ''
    names[name] = (names[name] or 0) + 1
  end
  if not consumer then
    if last_read and not is_older(last_read, entry) then fault('stranded', id) end
  elseif consumer == 'parked' then
    if not may_not_start(id, fields) and not redis.call('HGET', KEYS.layout, 'unpark') then fault('parked', id) end
  elseif string.sub(consumer, 1, 5) == 'line:' then
    local bucket = string.sub(consumer, 6)
    if not redis.call('ZSCORE', KEYS.lines, bucket) then
      fault('line', bucket, function() redis.call('ZADD', KEYS.lines, 0, bucket) end)
    end
  elseif not is_waiting(consumer) and not is_known(consumer) then
    fault('no record', id)
  end
end

local function check_entry(entry, fields)
  local id, here = field(fields, 'id') or '', place .. ' ' .. entry
  if id == '' then return fault('no id', here) end
  if place == 'dead' then
    local kind = kind_of(fields)
    if not redis.call('ZSCORE', KEYS['group:'] .. kind, padded(entry)) then
      fault('group', id, function() group_in(kind, entry, tonumber(string.match(entry, '^%d+'))) end)
    end
  else
    check_lease(entry, id, fields)
  end
  local located = redis.call('HGET', KEYS.jobs, id)
  if located and string.sub(located .. ' ', 1, #here + 1) == here .. ' ' then return end
  if is_there(id, located) then return fault('twice', id) end
  fault('unlocated', id, locate_at(id, here))
end

local function check_entries()
  local stream = stream_of[place]
  local many = page(looked, bytes)
  while many > 0 do
    local found = redis.pcall('XRANGE', stream, from, '+', 'COUNT', many)
    if found.err and not string.find(found.err, 'invalid start ID', 1, true) then return error(found) end
    for _, one in ipairs(found) do
      looked, bytes, from = looked + 1, bytes + bytes_of(one[2]), '(' .. one[1]
      check_entry(one[1], one[2])
    end
    if #found < many then return '' end
    many = page(looked, bytes)
  end
  return from
end

-- Members of other keys. A member that is gone by now is no fault.

local check = {}

-- Return the set that a delayed or suspended job is in, by the mark in its locator.
local function index_of(mark)
  return mark == 'suspended' and KEYS.suspended or KEYS.due
end

local function check_index(mark)
  local index, behind = index_of(mark), mark and ' ' .. mark or ''
  return function(one)
    local at, job = parted(one)
    local wanted, located = (at == '' and 'delayed' or 'delayed ' .. at) .. behind,
      redis.call('HGET', KEYS.jobs, job)
    if not redis.call('ZSCORE', index, one) or located == wanted and is_there(job, located) then return end
    local function drop()
      redis.call('ZREM', index, one)
      if located == wanted then redis.call('HDEL', KEYS.jobs, job) end
    end
    if redis.call('HEXISTS', KEYS.delayed, job) == 0 then return fault('due', one, drop) end
    local other, other_line, other_mark = string.match(located or '', '^(%S+) ?(%S*) ?(%S*)')
    local is_elsewhere = other == 'delayed' and redis.call('ZSCORE', index_of(other_mark), member(other_line, job))
    if is_elsewhere then return fault('due', one, drop) end
    if other ~= 'delayed' and is_there(job, located) then return fault('twice', job) end
    if repairs then fault('unlocated', job, locate_at(job, wanted)) end -- else `delayed` reports it
  end
end
check.due = check_index()

-- Find a job that nothing wakes: it waits for children, and their group is gone or has none left.
local function check_wait(one)
  local _, job = parted(one)
  local packed = redis.call('ZSCORE', KEYS.suspended, one) and redis.call('HGET', KEYS.delayed, job) or ''
  bytes = bytes + #packed
  local key = string.match(field(unpacked(packed) or {}, 'waits') or '', '^%d+ children (%S+)')
  if not key then return end
  local token = redis.pcall('HGET', KEYS['steps:'] .. job, 'children ' .. key)
  token = type(token) == 'string' and token or ''
  local left = redis.pcall('HGET', KEYS['children:'] .. token, 'left')
  if type(left) == 'string' and left ~= '0' then return end
  fault('waits', job, function() wake(job, one, packed, 'children', token, now_ms) end)
end

local check_suspended = check_index('suspended')
check.suspended = function(one)
  check_suspended(one)
  check_wait(one)
end

check.delayed = function(job)
  local packed = redis.call('HGET', KEYS.delayed, job)
  if not packed then return end
  bytes = bytes + #packed
  local fields = unpacked(packed)
  if not fields then return fault('unreadable', job) end
  local located = redis.call('HGET', KEYS.jobs, job)
  local at, place_in_line, mark = string.match(located or '', '^(%S+) ?(%S*) ?(%S*)')
  if at == 'delayed' and redis.call('ZSCORE', index_of(mark), member(place_in_line, job)) then return end
  if at ~= 'delayed' and is_there(job, located) then return fault('twice', job) end
  if at ~= 'delayed' and not repairs then return fault('unlocated', job) end
  fault('no due time', job, function()
    if at ~= 'delayed' then place_in_line = line(exact_ms, looked) end
    local waits = field(fields, 'waits')
    local due = waits and (string.match(waits, ' (%d+)$') or '+inf') or whole(now_ms)
    redis.call('ZADD', index_of(waits and 'suspended'), due, member(place_in_line, job))
    locate_at(job, 'delayed ' .. place_in_line .. (waits and ' suspended' or ''))()
  end)
end

check.jobs = function(job)
  local located = redis.call('HGET', KEYS.jobs, job)
  if not located or is_there(job, located, true) then return end
  fault('ghost', job, function() redis.call('HDEL', KEYS.jobs, job) end)
end

-- Find notes of jobs that are gone.
local function check_note(key)
  return function(job)
    if redis.call('HEXISTS', key, job) == 0 or is_there(job, redis.call('HGET', KEYS.jobs, job)) then return end
    fault(part, job, function() redis.call('HDEL', key, job) end)
  end
end
check.held, check.waiters, check.signals = check_note(KEYS.held), check_note(KEYS.waiters),
  check_note(KEYS.signals)

check.children = function(token)
  local group = KEYS['children:'] .. token
  local known = redis.pcall('HMGET', group, 'parent', 'key', 'closed', 'left')
  if redis.call('EXISTS', group) == 0 then return end
  if not known.err and known[3] and known[4] ~= '0' then return end -- the group goes with the last child
  if not known.err and known[1]
    and redis.pcall('HGET', KEYS['steps:'] .. known[1], 'children ' .. (known[2] or '')) == token then
    return
  end
  fault('children', token, function() redis.call('DEL', group) end)
end

check.steps = function(job)
  if redis.call('EXISTS', KEYS['steps:'] .. job) == 0 or is_there(job, redis.call('HGET', KEYS.jobs, job)) then
    return
  end
  fault('steps', job, function() redis.call('DEL', KEYS['steps:'] .. job) end)
end

check.history = function(one)
  local at, entry = string.match(one, '^(%S+) (%S+)$')
  local fields = at and stream_of[at] and entry_at(stream_of[at], entry)
  bytes = bytes + bytes_of(fields or {})
  if fields or redis.call('HEXISTS', KEYS.history, one) == 0 then return end
  fault('history', one, function() redis.call('HDEL', KEYS.history, one) end)
end

check.shares = function(one)
  local bucket = redis.call('HGET', KEYS.shares, one)
  if not bucket then return end
  local at, entry = string.match(one, '^(%S+) (%d+%-%d+)$')
  local consumer = at and stream_of[at] and holder(stream_of[at], entry) or nil
  if is_waiting(consumer) then
    fault('share', one, function() give_up({one}, now_ms) end)
  elseif not redis.call('ZSCORE', KEYS['holders:'] .. bucket, one) then
    fault('share', one, function() redis.call('ZADD', KEYS['holders:'] .. bucket, whole(now_ms), one) end)
  end
end

check.lines = function(bucket)
  local waits = false
  for _, stream in ipairs(streams) do
    waits = waits or #(leases(stream, '-', '+', 1, 'line:' .. bucket) or {}) > 0
  end
  local due_ms = waits and redis.call('ZSCORE', KEYS.lines, bucket) and lost_turn(bucket, now_ms, exact_ms)
  if due_ms then fault('line', bucket, function() redis.call('ZADD', KEYS.turns, whole(due_ms), bucket) end) end
end

check.groups = function(kind)
  if not redis.call('ZSCORE', KEYS.groups, kind) or redis.call('ZCARD', KEYS['group:'] .. kind) > 0 then return end
  fault('group', kind, function() redis.call('ZREM', KEYS.groups, kind) end)
end

check.letters = function(one)
  local group_key, entry = KEYS['group:'] .. place, string.gsub(one, '-0+(%d)', '-%1') -- see include/padded
  local fields = entry_at(KEYS.dead, entry)
  bytes = bytes + bytes_of(fields or {})
  if not redis.call('ZSCORE', group_key, one) or fields and kind_of(fields) == place then return end
  fault('group', entry, function() redis.call('ZREM', group_key, one) end)
end

check.group = function(kind)
  local last = redis.call('ZRANGE', KEYS['group:'] .. kind, 0, 0, 'REV', 'WITHSCORES')
  if not last[1] or redis.call('ZSCORE', KEYS.groups, kind) then return end
  fault('group', kind, function() redis.call('ZADD', KEYS.groups, last[2], kind) end)
end

check.unique = function(key)
  local name = KEYS['unique:'] .. key
  local job = redis.call('GET', name)
  if not job or redis.call('PTTL', name) >= 0 then return end
  local located = redis.call('HGET', KEYS.jobs, job)
  if is_there(job, located) and not string.find(located, '^dead ') then return end
  fault('unique', key, function() free(key, job) end)
end

check.worker = function(worker)
  local fenced = redis.call('ZSCORE', KEYS.fenced, worker)
  if fenced or redis.call('ZSCORE', KEYS.workers, worker)
    or redis.call('EXISTS', KEYS['worker:'] .. worker) == 0 then
    return
  end
  fault('worker', worker, function() -- workers then fence it, or watch it, unless it is alive
    local lease_ms = lease_in(worker)
    redis.call('ZADD', lease_ms and KEYS.workers or KEYS.fenced, whole(now_ms + (lease_ms or 0)), worker)
  end)
end

check.holders = function(bucket)
  for _, one in ipairs(redis.call('ZRANGE', KEYS['holders:'] .. bucket, 0, 499)) do
    if redis.call('HGET', KEYS.shares, one) ~= bucket then
      fault('share', one, function() redis.call('ZREM', KEYS['holders:'] .. bucket, one) end)
    end
  end
end

check.schedule = function(name)
  local is_gone = redis.call('EXISTS', KEYS['schedule:'] .. name) == 0
  if not is_gone and not redis.call('ZSCORE', KEYS.schedules, name) then fault('schedule', name) end
end

local left_off = ''
if part == 'entries' then left_off = check_entries() end
for at = first_member, #ARGV do
  if looked >= 500 or bytes >= 1048576 or #faults >= 500 then break end
  looked = looked + 1
  check[part](ARGV[at])
end
local waiting = {}
for name, many in pairs(names) do waiting[#waiting + 1], waiting[#waiting + 2] = name, many end
return {looked, left_off, waiting, unpack(faults)}
