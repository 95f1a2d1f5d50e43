#!lua flags=allow-oom
-- put_schedule: put schedules on a queue, declare them, or report that a scheduler is still running.
--
-- A scheduler declares the schedules of its release when it starts, and reports every 10 seconds. Two releases may
-- declare a schedule differently. Then the declaration of the scheduler that started later counts, while any
-- scheduler of its release is running. A schedule that was put at run time stays until it is removed, even if a
-- release declares it.
--
-- ARGV[1]  now_ms      int ms; '' = the server's clock
-- ARGV[2]  declared_by int ms  when the scheduler that declares them started, by the server's clock; '0' = now,
--                      and the answer has that time; '' = they are put at run time
-- ARGV[3]  scheduler   the id of that scheduler
-- ARGV[4]  release     of that scheduler; schedulers with the same declarations are of one release
-- ARGV[5..] for each schedule: name; fingerprint of its definition; the last slot (ms) fired of the schedule that
--           it replaces, as the caller knows it, or ''; since when its slots count (ms), or '' for now; '1'
--           (paused) or '0' if it comes from another store in this state, after its slot `since`, else ''; number
--           of field values, then the names and values of the definition, `rule` first; none if the definition is
--           there and this only declares it
-- Returns  {now_us, change, present, word, ...}: the server's clock, the number of the last change, the number of
--          running schedulers of the release, this one included, or 0 if it had not reported lately, and a word
--          for each schedule:
--          OK        it counts now
--          NEWER     a later release declares it differently; nothing was written
--          KEPT      it was put at run time; of one from another store: and no mover has taken it from here;
--                    nothing was written
--          DECLARED  a running scheduler declares it, so it can't be put; nothing was written
--          NOT_FOUND call again with the definition; nothing was written
--          CHANGED   the old one has another rule: first fire its slots, then call again with the last; nothing
--                    was written
--          SPOILED   its key holds no schedule; nothing was written

--- @include now whole expect is_declared schedule changed_schedules times
local now_ms, exact_ms = now(ARGV[1])
local is_put = ARGV[2] == ''
local declared_by = ARGV[2] == '0' and whole(now_ms) or ARGV[2]
local scheduler, release = ARGV[3], ARGV[4]
local mates = KEYS['schedulers:'] .. release
-- A schedule is dropped if no release has declared it for this long. Schedulers declare once a day.
local forgotten_ms = 31 * 86400000

expect('hash', KEYS.layout)
expect('zset', KEYS.schedules, KEYS.schedulers, mates)

local present = 0
if not is_put then
  local seen_at = redis.call('ZSCORE', mates, scheduler)
  for key, who in pairs({[mates] = scheduler, [KEYS.schedulers] = release}) do
    -- Also drop times in the future: after the clock was set back, they would count again once it reaches them.
    for first, last in pairs({['-inf'] = whole(now_ms - there_ms), [whole(now_ms + there_ms)] = '+inf'}) do
      local silent = redis.call('ZRANGE', key, first, last, 'BYSCORE', 'LIMIT', 0, 100)
      if #silent > 0 then redis.call('ZREM', key, unpack(silent)) end
    end
    redis.call('ZADD', key, whole(now_ms), who)
    redis.call('PEXPIRE', key, there_ms)
  end
  if seen_at and math.abs(now_ms - tonumber(seen_at)) < there_ms then present = redis.call('ZCARD', mates) end
  -- Drop the names of some schedules that were removed or have expired.
  for _, name in ipairs(redis.call('ZRANDMEMBER', KEYS.schedules, 20)) do
    if redis.call('TYPE', KEYS['schedule:'] .. name).ok == 'none' then redis.call('ZREM', KEYS.schedules, name) end
  end
end

-- Return the word for why this schedule may not be put or declared; nil: it may.
local function against(there, is_same, rule, last_ms, comes)
  if there == 'SPOILED' then return there end
  local is_there = is_declared(there, now_ms)
  if is_put and is_there then return 'DECLARED' end
  if comes ~= '' and there and not there.declared_by and not (there.paused == '1' and there.moved_to) then
    return 'KEPT'
  end
  if is_put then return nil end
  if there and not there.declared_by then return 'KEPT' end
  if is_same then return nil end
  if is_there and tonumber(there.declared_by) >= tonumber(declared_by) then return 'NEWER' end
  if not rule then return 'NOT_FOUND' end
  return there and there.rule ~= rule and there.last_slot ~= last_ms and 'CHANGED' or nil
end

local function write(name, fingerprint, there, since, definition, comes)
  local record = KEYS['schedule:'] .. name
  local last_ms = there and tonumber(there.last_slot) or 0
  if comes ~= '' then
    last_ms = math.max(tonumber(since), last_ms)
  elseif not (there and there.rule == definition[2]) then
    -- Never earlier than the last fired slot: the clock may have been set back.
    last_ms = math.max(math.min(tonumber(since) or now_ms, now_ms), last_ms)
  end
  redis.call('DEL', record)
  redis.call('HSET', record, 'fingerprint', fingerprint, 'last_slot', whole(last_ms), unpack(definition))
  local is_paused = comes == '1' or comes == '' and there and there.paused == '1'
  if is_paused then redis.call('HSET', record, 'paused', '1') end
  for _, kept in ipairs({'missed', 'fired_slot', 'fired_by'}) do
    if there and there[kept] then redis.call('HSET', record, kept, there[kept]) end
  end
end

-- Note which scheduler declares it, unless a later one declares the same. Return whether the release has changed.
local function attribute(name, there, is_same)
  local record = KEYS['schedule:'] .. name
  local is_there = is_same and is_declared(there, now_ms)
  local is_other = not is_same or there.release ~= release
  redis.call('PEXPIRE', record, whole(forgotten_ms))
  if is_there and tonumber(there.declared_by) > tonumber(declared_by) then return false end
  redis.call('HSET', record, 'declared_by', declared_by, 'release', release)
  return is_other
end

local first_schedule = 5
local words, changed, at = {}, {}, first_schedule
while at <= #ARGV do
  local name, fingerprint, last_ms, since, values = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3],
    tonumber(ARGV[at + 5])
  local there = schedule(name)
  local is_same = type(there) == 'table' and there.fingerprint == fingerprint
  local rule = values > 0 and ARGV[at + 7]
  local word = against(there, is_same, rule, last_ms, ARGV[at + 4])
  words[#words + 1] = word or 'OK'
  if not word then
    local is_written = not is_same or is_put
    if is_written then
      write(name, fingerprint, there, since, {unpack(ARGV, at + 6, at + 5 + values)}, ARGV[at + 4])
    end
    local is_moved = not is_put and attribute(name, there, is_same)
    if is_written or is_moved then changed[#changed + 1] = name end
  end
  at = at + 6 + values
end
local change = changed_schedules(now_ms, changed)
return {exact_ms * 1000, change, present, unpack(words)}
