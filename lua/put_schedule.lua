#!lua flags=allow-oom
-- put_schedule: put schedules on a queue, or say that they are still declared.
--
-- A scheduler says so of those that its release declares, when it begins and then again and again. Where two releases
-- declare one differently, that of the scheduler that began later counts, for as long as one of that release is there. Others
-- are put at run time: these stay until they are removed, whatever any release declares.
--
-- KEYS[1] schedules hash    schedule name -> the last slot that was seen to, ms
-- KEYS[2] schedule: hash    prefix; schedule:<name> holds one schedule: its rule, its job, what became of it
-- KEYS[3] layout    hash    version of the keys; how often the schedules were changed
-- KEYS[4] control   channel notifications
--
-- ARGV[1]  now_ms      int ms; '' = the server's clock
-- ARGV[2]  declared_by int ms  when the scheduler that declares them began, by the server's clock; '0' now, which the
--                      answer says; '' nobody: they are put at run time
-- ARGV[3..] for each schedule: name, fingerprint (tells its definition from others), number of field values, then the
--           names and values of the definition, `rule` first; none to say no more than that it is still declared
--
-- Returns  {now_us, changes, word, ...}: the server's clock, how often the schedules were changed, and one word each:
--          OK        it counts; if its rule is a new one, its slots count from now on
--          NEWER     a later release declares it differently; nothing was written
--          KEPT      it was put at run time; nothing was written
--          DECLARED  a scheduler that is there declares it, so it can't be put; nothing was written
--          NOT_FOUND give the definition; nothing was written
--          SPOILED   what is there is none, by somebody's hand; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/tell"
--- @include "include/times_changed"
--- @include "include/changed_schedules"
--- @include "include/schedule"
--- @include "include/is_declared"

local schedules, prefix, layout, control = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now_ms, exact_ms = now(ARGV[1])
local is_put = ARGV[2] == ''
local declared_by = ARGV[2] == '0' and whole(now_ms) or ARGV[2]
local forgotten_ms = 30 * 86400000 -- of one that no release declares any more

expect('hash', schedules, layout)

-- Of some whose record has expired, the name goes too.
if not is_put then
  for _, name in ipairs(redis.call('HRANDFIELD', schedules, 20)) do
    if redis.call('TYPE', prefix .. name).ok == 'none' then redis.call('HDEL', schedules, name) end
  end
end

-- What is there against it; nil for nothing.
local function against(name, there, is_same, is_whole)
  if there == 'SPOILED' then return there end
  local is_there = is_declared(there, now_ms)
  if is_put then return is_there and 'DECLARED' or nil end
  if there and not there.declared_by then return 'KEPT' end
  if is_same then return nil end
  if is_there and tonumber(there.declared_by) >= tonumber(declared_by) then return 'NEWER' end
  return not is_whole and 'NOT_FOUND' or nil
end

local function write(name, fingerprint, there, definition)
  local record = prefix .. name
  local is_new_rule = not (there and there.rule == definition[2])
  redis.call('DEL', record)
  redis.call('HSET', record, 'fingerprint', fingerprint, unpack(definition))
  for _, kept in ipairs({'paused', 'missed', 'fired_slot', 'fired_by'}) do
    if there and there[kept] then redis.call('HSET', record, kept, there[kept]) end
  end
  -- Not before a slot that was fired: the clock may have been set back.
  if is_new_rule then
    local last_ms = there and tonumber(there.last_slot) or 0
    redis.call('HSET', schedules, name, whole(math.max(now_ms, last_ms)))
  end
end

local first_schedule = 3
local words, has_changed, at = {}, false, first_schedule
while at <= #ARGV do
  local name, fingerprint, values = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local there = schedule(schedules, prefix, name)
  local is_same = type(there) == 'table' and there.fingerprint == fingerprint
  local word = against(name, there, is_same, values > 0)
  words[#words + 1] = word or 'OK'
  if not word then
    if not is_same or is_put then
      write(name, fingerprint, there, {unpack(ARGV, at + 3, at + 2 + values)})
      has_changed = true
    end
    if not is_put then
      local latest = is_same and math.max(tonumber(there.declared_by), tonumber(declared_by)) or declared_by
      redis.call('HSET', prefix .. name, 'declared_by', whole(tonumber(latest)), 'seen_at', whole(now_ms))
      redis.call('PEXPIRE', prefix .. name, whole(forgotten_ms))
    end
  end
  at = at + 3 + values
end
local changes = changed_schedules(layout, control, has_changed)
return {exact_ms * 1000, changes, unpack(words)}
