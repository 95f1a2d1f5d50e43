#!lua flags=allow-oom
-- tidy: look at all consumers, once a minute in the whole fleet. What one without a record holds is reclaimed from now
-- on, as that of a fenced worker is: its record was lost in a failover, or taken away by hand. One that holds nothing is
-- removed; among very many only where there are more than are known. Of the consumers of waiting lines 500 are looked at,
-- each time others, and more while any of them is not in `lines`, by somebody's hand.
--
-- ARGV[1]  idle_ms       int ms  a consumer that holds nothing and is unheard of for this long is removed
-- ARGV[2]  every_ms      int ms  nothing is begun where it was begun so lately
-- ARGV[3]  after         where to go on, as the last step said; '' to begin
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- ARGV[5]  listed        '1': the caller has listed the consumers of the stream where this goes on, and gives some; '' else
-- ARGV[6..] for each of these: name, how many jobs it has pending, for how long it is unheard of, ms
--
-- Returns  {count, after, suspects, parked, began, limited, lists}: how many consumers were removed, or are to be looked at;
--          where to go on, '' at the end; and where a script takes too long to list the consumers of that stream, by
--          what the caller is to list them, else 0: 1 XPENDING, 2 XINFO CONSUMERS. It gives those that are in `workers` no
--          more, and 500 lines, those that come after as many as `after` says, and round. The first step also says: 1 if there may
--          be entries that are neither pending nor still to be read: see restore; 1 if jobs may be parked that may start, as the
--          call that resumed them was cut off: see unpark; 1 if this was begun now, and so what is kept no longer is to be
--          trimmed; and 1 if jobs run that have limits, or wait for one: see shares

--- @include now expect streams leases is_waiting alive whole fence group field has_many

local idle_ms, every_ms, after, now_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], now(ARGV[4])
local is_listed = ARGV[5] == '1'
local first_consumer = 6
local most = 500

expect('stream', streams[1], streams[2], streams[3])
expect('zset', KEYS.workers, KEYS.fenced, KEYS.lines)
expect('hash', KEYS.layout, KEYS.shares)
local last_ms = tonumber(redis.call('HGET', KEYS.layout, 'tidied_at') or nil)
if after == '' and last_ms and last_ms <= now_ms and now_ms < last_ms + every_ms then return {0, '', 0, 0, 0, 0, 0} end

local total, living = 0, {}
for _, id in ipairs(is_listed and {} or redis.call('ZRANGE', KEYS.workers, 0, -1)) do
  living[id] = true -- to ask for each takes twice as long
end

-- Whether a consumer holds a job; since the caller has listed it, it may have got one.
local function holds(stream, name, pending)
  return pending > 0 or is_listed and #(leases(stream, '-', '+', 1, name) or {}) > 0
end

local function look_at(stream, name, pending, idle)
  if is_waiting(name) or redis.call('ZSCORE', KEYS.fenced, name) then return end
  if is_listed and redis.call('ZSCORE', KEYS.workers, name) then return end
  local kind = redis.call('TYPE', KEYS['worker:'] .. name).ok
  local lease_ms = kind == 'hash' and alive(name)
  if lease_ms then -- `workers` was taken away; it lives, or is fenced a lease from now
    redis.call('ZADD', KEYS.workers, whole(now_ms + lease_ms), name)
  elseif holds(stream, name, pending) then
    fence(name, now_ms)
    total = total + 1
  elseif idle > idle_ms then
    redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
    redis.call('DEL', KEYS['worker:'] .. name) -- of one that was fenced, of which `fenced` lost the note
    total = total + 1
  end
end

-- Up to 500 lines, from that one on and round, are in `lines`, or have no consumer. Returns where to go on, if one was not.
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

-- Whether a number of consumers is no more than are known.
local function are_known(many)
  return many <= redis.call('ZCARD', KEYS.workers) + redis.call('ZCARD', KEYS.fenced) + redis.call('ZCARD', KEYS.lines) + 3
end

-- The consumers of a stream, and where in each its name stands, how many it has pending, and for how long it is unheard of.
-- Of very many, if they are no more than are known, only those that hold something: to ask about all takes twice as long,
-- and one that holds nothing is in nobody's way.
local function consumers_of(stream)
  if is_listed then
    local given = {}
    for at = first_consumer, #ARGV, 3 do given[#given + 1] = {ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])} end
    return given, {name = 1, pending = 2, idle = 3}
  end
  local ours = group(stream)
  local many = ours and field(ours, 'consumers') or 0
  if many > most and are_known(many) then
    return leases(stream)[4] or {}, {name = 1, pending = 2, idle = 3}
  end
  local all, at = ours and redis.call('XINFO', 'CONSUMERS', stream, 'workers') or {}, {}
  for i = 1, #(all[1] or {}), 2 do at[all[1][i]] = i + 1 end -- in each the same: this is asked of very many
  return all, at
end

-- Returns how many consumers there were, and, if some lines are to be looked at yet, from which on.
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
  elseif (looked > most or is_listed) and number < 3 then -- one list of very many takes its time
    left_off = number + 1 .. ' '
  end
  if is_listed then break end
  number = number + 1
end
if after ~= '' then return {total, left_off, 0, 0, 0, 0, lists} end

local suspects = 0
for _, stream in ipairs(streams) do
  local ours = group(stream)
  local unread = ours and field(ours, 'lag') -- none where the server has lost count
  if ours and (not unread or redis.call('XLEN', stream) > field(ours, 'pending') + unread) then suspects = 1 end
end
redis.call('HSET', KEYS.layout, 'tidied_at', whole(now_ms))
local parked, limited = redis.call('HGET', KEYS.layout, 'unpark') and 1 or 0, redis.call('EXISTS', KEYS.shares, KEYS.lines)
return {total, left_off, suspects, parked, 1, math.min(limited, 1), lists}
