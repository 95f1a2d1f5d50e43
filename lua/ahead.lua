#!lua flags=no-writes,allow-oom
-- ahead: return the place of a job: how many jobs start before it, and other reasons why it waits. `find` returns
-- the job itself. The script counts up to 1,000 jobs, and reads up to about 1 MB. It writes nothing.
--
-- ARGV[1]  job           job id; '' = the job that holds the key
-- ARGV[2]  key           a unique key; '' = none
-- ARGV[3]  now_ms        int ms; '' = the server's clock
-- Returns  {name, value, ...}
--          now       ms
--          id        of the job, or of the holder of the key; or ''
--          ttl       ms for which it holds the key; -1: until it ends
--          ahead     number of jobs that start before it; more: 1 if there are more
--          bucket    if it waits in a line, its bucket; else ''
--          turn      when the next job of the line may start, ms or ''
--          limit     of its name
--          running   number of jobs under it; some: {worker, job id, ...} of these
--          held      since when it is held, ms or ''
--          promoter  the worker that promotes
--          alike     number of dead letters of its kind
--          inbox     1 if it is an entry of the inbox
--          ended     1 if its push was remembered as ended within the last minute

--- @include now locate stored entry_at stream_of streams holder leases group field bytes_of kind_of recent_ends
--- @include mark whole is_waiting
local job, key, now_ms = ARGV[1], ARGV[2], now(ARGV[3])
local most, most_bytes = 1000, 1048576
local count, bytes = 0, 0

local function is_full()
  return count > most or bytes >= most_bytes
end

-- Count jobs that a pseudo-consumer holds, up to an entry.
local function count_held(stream, consumer, until_entry)
  if not is_full() then count = count + #(leases(stream, '-', until_entry, most + 1 - count, consumer) or {}) end
end

local function count_unread(stream, until_entry)
  local ours = group(stream)
  local from = ours and '(' .. field(ours, 'last-delivered-id') or '-'
  while not is_full() do
    local found = redis.pcall('XRANGE', stream, from, until_entry, 'COUNT', 10) -- they may be large
    if found.err and not string.find(found.err, 'invalid %a+ ID') then return error(found) end
    for _, one in ipairs(found) do count, bytes, from = count + 1, bytes + bytes_of(one[2]), '(' .. one[1] end
    if #found < 10 then return end
  end
end

-- Count the jobs that start before a ready job: jobs of higher priorities, jobs that were handed back, and older
-- jobs. For a job in a waiting line, count the jobs of that line.
local function count_ahead(place, entry, consumer)
  local in_line = string.match(consumer or '', '^line:.*')
  for _, stream in ipairs(streams) do
    local is_last = stream == stream_of[place]
    local before = is_last and '(' .. entry or '+'
    count_held(stream, in_line or 'released', is_last and consumer and before or '+')
    if not in_line and not (is_last and consumer) then count_unread(stream, before) end
    if is_last then return end
  end
end

-- Return some of the jobs that run under the limit of a bucket: worker, job id, ...
local function running_in(bucket)
  local found = {}
  for _, there in ipairs(redis.call('ZRANGE', KEYS['holders:'] .. bucket, 0, 9)) do
    local place, entry = string.match(there, '^(%S+) (%d+%-%d+)$')
    local worker = stream_of[place] and holder(stream_of[place], entry)
    local fields = worker and bytes < most_bytes and entry_at(stream_of[place], entry)
    if worker then
      found[#found + 1], found[#found + 2] = worker, fields and field(fields, 'id') or ''
      bytes = bytes + bytes_of(fields or {})
    end
  end
  return found
end

local ttl = -2
if job == '' then
  job = redis.call('GET', KEYS['unique:'] .. key) or ''
  if job ~= '' then ttl = redis.call('PTTL', KEYS['unique:'] .. key) end
end
local place, entry = locate(job)
local fields = place and stored(job, place .. ' ' .. entry)
local said = {turn = '', limit = '', running = 0, some = {}, alike = 0, inbox = 0, ended = 0}
if fields and place == 'dead' then
  said.alike = redis.call('ZCARD', KEYS['group:'] .. kind_of(fields))
elseif fields and place ~= 'delayed' then
  local consumer = holder(stream_of[place], entry)
  if is_waiting(consumer) then count_ahead(place, entry, consumer) end
  said.bucket = string.match(consumer or '', '^line:(.*)')
  if said.bucket then
    said.turn = redis.call('ZSCORE', KEYS.turns, said.bucket) or ''
    said.limit = redis.call('HGET', KEYS.limits, string.match(said.bucket, '^%S*')) or ''
    said.running = redis.call('ZCARD', KEYS['holders:'] .. said.bucket)
    said.some = running_in(said.bucket)
  end
elseif not place and job ~= '' then
  said.inbox = entry_at(KEYS.inbox, job) and 1 or 0
  -- A refused push is remembered like one that ended: see `refuse` in push.
  local _, ended = recent_ends(now_ms, now_ms, now_ms, mark(job), mark('refused ' .. job))
  said.ended = ended and not ended[2] and 1 or 0
end
return {
  'now', whole(now_ms), 'id', job, 'ttl', ttl, 'ahead', math.min(count, most), 'more', is_full() and 1 or 0,
  'bucket', said.bucket or '', 'turn', said.turn, 'limit', said.limit, 'running', said.running, 'some', said.some,
  'held', redis.call('HGET', KEYS.held, job) or '', 'promoter', redis.call('GET', KEYS.promoter) or '',
  'alike', said.alike, 'inbox', said.inbox, 'ended', said.ended,
}
