#!lua flags=allow-oom
-- requeue: run a dead letter again, or a job that ended and was kept, now or later.
--
-- ARGV[1]  job           job id, or entry and place, as 1732-5@dead
-- ARGV[2]  due           when it may run: '' now, '+5000' in ms, or a time in ms
-- ARGV[3]  parameters    JSON text, new ones; '' = as they are
-- ARGV[4]  limit_key     a new one; '' = as it is
-- ARGV[5]  ended         '1': also a job that has ended and was kept; '' = a dead letter only
-- ARGV[6]  now_ms        int ms; '' = the server's clock
--
-- Returns  OK         ready, or delayed
--          NOT_FOUND  there is no such dead letter, or kept job; nothing was written
--          OVERSIZED  it has more values than a script can add; nothing was written
--          NO_IDS     the ready streams have no entry ids left; nothing was written

--- @include now due_time locate entry_at expect streams requeuing

local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local job, now_ms, exact_ms = ARGV[1], now(ARGV[6])
local due_at, parameters, limit_key, ended = due_time(ARGV[2], exact_ms), ARGV[3], ARGV[4], ARGV[5] == '1'
local changes = {}
if parameters ~= '' then changes = {'parameters', parameters} end
if limit_key ~= '' then changes[#changes + 1], changes[#changes + 2] = 'limit_key', limit_key end

local place, letter, _, id = locate(aside, job)
local found = (place == 'dead' or ended) and aside[place] and entry_at(aside[place], letter)
if not found then return 'NOT_FOUND' end
if due_at > now_ms then
  expect('zset', KEYS.due)
  expect('hash', KEYS.delayed)
else
  expect('stream', unpack(streams))
end

local add, write = requeuing(now_ms, exact_ms)
local is_added, is_large = add(aside[place], letter, id, found, changes, due_at)
if is_large then return 'OVERSIZED' end
if not is_added then return 'NO_IDS' end
write()
return 'OK'
