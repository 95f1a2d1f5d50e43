#!lua flags=allow-oom
-- tidy: look at all consumers, once a minute in the whole fleet. Fence consumers that hold jobs and have no
-- record: the record was lost in a failover, or deleted. Remove consumers that hold nothing; if there are very
-- many, only while there are more than the known ones. Compare 500 consumers of waiting lines with `lines`,
-- different ones each time, and more while some are missing there.
--
-- ARGV[1]  idle_ms       int ms  remove a consumer that holds nothing and was silent for this long
-- ARGV[2]  every_ms      int ms  do nothing if tidy began less than this long ago
-- ARGV[3]  after         where to go on, as the last step said; '' to begin
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- ARGV[5]  listed        '1': the caller has listed the consumers of the stream in `after`, and gives some of
--                        them; '' else
-- ARGV[6..] for each of these: name, how many jobs it has pending, how long it was silent, ms
-- Returns  {count, after, suspects, parked, began, limited, cancels, lists}. Only the first step returns the
--          values between `after` and `lists`.
--          count    number of consumers removed or fenced
--          after    where to go on, '' at the end
--          suspects 1 if some entries may be neither pending nor unread: run restore
--          parked   1 if parked jobs may be free to start: run unpark
--          began    1 if tidy began now: run trim
--          limited  1 if jobs with limits run or wait: run shares
--          cancels  1 if children have to be cancelled: run cancel_children
--          lists    how the caller has to list the consumers of the stream in `after`, because a script takes too
--                   long: 1 by XPENDING, 2 by `XINFO CONSUMERS`, else 0. The caller passes consumers that are not
--                   in `workers`, and 500 lines, starting at the number in `after` and wrapping around

--- @include now expect streams leases is_waiting alive whole fence group field has_many
local idle_ms, every_ms, after, now_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], now(ARGV[4])
local is_listed = ARGV[5] == '1'
local first_consumer = 6
local most = 500

expect('stream', unpack(streams))
expect('zset', KEYS.workers, KEYS.fenced, KEYS.lines)
expect('hash', KEYS.layout, KEYS.shares)
local last_ms = tonumber(redis.call('HGET', KEYS.layout, 'tidied_at') or nil)
if after == '' and last_ms and last_ms <= now_ms and now_ms < last_ms + every_ms then
  return {0, '', 0, 0, 0, 0, 0, 0}
end

local total, living = 0, {}
for _, id in ipairs(is_listed and {} or redis.call('ZRANGE', KEYS.workers, 0, -1)) do
  living[id] = true -- one ZSCORE each takes twice as long
end

-- Return whether a consumer holds a job. It may have got one since the caller listed it.
local function holds(stream, name, pending)
  return pending > 0 or is_listed and #(leases(stream, '-', '+', 1, name) or {}) > 0
end

local function look_at(stream, name, pending, idle)
  if is_waiting(name) or redis.call('ZSCORE', KEYS.fenced, name) then return end
  if is_listed and redis.call('ZSCORE', KEYS.workers, name) then return end
  local kind = redis.call('TYPE', KEYS['worker:'] .. name).ok
  local lease_ms = kind == 'hash' and alive(name)
  if lease_ms then -- it was deleted from `workers`. If it is dead, it is fenced a lease from now
    redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), name)
  elseif holds(stream, name, pending) then
    fence(name, now_ms)
    total = total + 1
  elseif idle > idle_ms then
    redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
    redis.call('DEL', KEYS['worker:'] .. name) -- of a fenced worker whose member of `fenced` was lost
    total = total + 1
  end
end

-- Look at up to 500 lines, starting at `from` and wrapping around. Add a missing line to `lines`, or remove its
-- consumer if that holds nothing. Return where to go on, if a line was missing.
local function look_at_lines(stream, found, at, from)
  if #found == 0 then return nil end
  local page, buckets, was_missing = {}, {}, false
  for i = 0, math.min(#found, most) - 1 do
    page[#page + 1] = found[is_listed and i + 1 or (from + i) % #found + 1]
    buckets[#buckets + 1] = string.sub(page[#page][at.name], 6)
  end
  for i, known in ipairs(redis.call('ZMSCORE', KEYS.lines, unpack(buckets))) do
    if not known and holds(stream, page[i][at.name], tonumber(page[i][at.pending])) then
      redis.call('ZADD', KEYS.lines, 0, buckets[i])
      was_missing = true
    elseif not known then
      redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', page[i][at.name])
      total, was_missing = total + 1, true
    end
  end
  return was_missing and (is_listed or #found > most) and from + most or nil
end

-- Return whether there are no more consumers than the known ones.
local function are_known(many)
  return many <= redis.call('ZCARD', KEYS.workers) + redis.call('ZCARD',
    KEYS.fenced) + redis.call('ZCARD', KEYS.lines) + 3
end

-- Return the consumers of a stream, and the indices of a consumer's name, pending count and idle time.
local function consumers_of(stream)
  if is_listed then
    local given = {}
    for at = first_consumer, #ARGV, 3 do given[#given + 1] = {ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])} end
    return given, {name = 1, pending = 2, idle = 3}
  end
  local all, at = group(stream) and redis.call('XINFO', 'CONSUMERS', stream, 'workers') or {}, {}
  for i = 1, #(all[1] or {}), 2 do at[all[1][i]] = i + 1 end -- the same in each
  return all, at
end

-- Return the number of consumers, and the line to go on from, if there are more.
local function look_at_all(stream, from)
  local all, at = consumers_of(stream)
  local found = {}
  for _, consumer in ipairs(all) do
    local name = consumer[at.name]
    if not living[name] and string.sub(name, 1, 5) == 'line:' then
      found[#found + 1] = consumer
    elseif not living[name] and total < most then
      look_at(stream, name, tonumber(consumer[at.pending]), consumer[at.idle])
    end
  end
  return #all, look_at_lines(stream, found, at, from)
end

local number, from = string.match(after, '^([123]) (%d*)$')
number, from = tonumber(number or 1), tonumber(from or nil)
local looked, left_off, lists = 0, '', 0
while number <= 3 and left_off == '' do
  local stream, turn = streams[number], from or math.floor(now_ms / 60000) * most -- other lines each minute
  if has_many(stream) and not is_listed then
    left_off, lists = number .. ' ' .. whole(turn), are_known(field(group(stream), 'consumers')) and 1 or 2
    break
  end
  local many, going_on = look_at_all(stream, turn)
  looked, from = looked + many, nil
  if going_on then
    left_off = number .. ' ' .. whole(going_on)
  elseif (looked > most or is_listed) and number < 3 then -- one long list a step
    left_off = number + 1 .. ' '
  end
  if is_listed then break end
  number = number + 1
end
if after ~= '' then return {total, left_off, 0, 0, 0, 0, 0, lists} end

local suspects = 0
for _, stream in ipairs(streams) do
  local ours = group(stream)
  local unread = ours and field(ours, 'lag') -- none if Redis has lost count
  if ours and (not unread or redis.call('XLEN', stream) > field(ours, 'pending') + unread) then suspects = 1 end
end
redis.call('HSET', KEYS.layout, 'tidied_at', whole(now_ms))
local parked, limited = redis.call('HGET', KEYS.layout, 'unpark') and 1 or 0,
  redis.call('EXISTS', KEYS.shares, KEYS.lines)
return {total, left_off, suspects, parked, 1, math.min(limited, 1), redis.call('EXISTS', KEYS.cancelling), lists}
