#!lua flags=allow-oom
-- requeue: make a dead letter, or a kept job that has ended, ready or delayed again. A call that is repeated
-- because its reply was lost gets the same answer, and requeues nothing.
--
-- ARGV[1]  job           job id
-- ARGV[2]  due           when it may run: '' now, '+5000' in ms, or a time in ms
-- ARGV[3]  parameters    new ones, JSON text; '' = keep the old
-- ARGV[4]  limit_key     a new one; '' = keep the old
-- ARGV[5]  ended         '1': also a job that has ended and was kept; '' = a dead letter only
-- ARGV[6]  entry         only if the job is in this entry; '' = in any
-- ARGV[7]  unique        '=' and a new unique key, or '=' for none; '' = keep the old
-- ARGV[8]  from_step     '=' and the key of a step: forget it, steps saved after it, and the checkpoint; '=': all;
--                        '' = nothing
-- ARGV[9]  nonce         tells this call from others
-- ARGV[10] now_ms        int ms; '' = the server's clock
-- Returns  OK           ready, or delayed
--          INDEPENDENT  ready, or delayed; it was a child, and is an independent job now, because its parent no
--                       longer waits for it
--          NOT_FOUND    there is no such dead letter, or kept job; nothing was written
--          DUPLICATE    another job holds its unique key; nothing was written
--          NO_STEP      it has saved no step of this key; nothing was written
--          OVERSIZED    it has more values than a script can add; nothing was written

--- @include now due_time locate entry_at expect streams slot requeuing answered remember
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local job, nonce, now_ms, exact_ms = ARGV[1], ARGV[9], now(ARGV[10])
local due_at, parameters, limit_key, ended = due_time(ARGV[2], exact_ms), ARGV[3], ARGV[4], ARGV[5] == '1'
local only, unique, from_step, changes = ARGV[6], string.match(ARGV[7], '^=(.*)$'),
  string.match(ARGV[8], '^=(.*)$'), {}
if parameters ~= '' then changes = {'parameters', parameters} end
if limit_key ~= '' then changes[#changes + 1], changes[#changes + 2] = 'limit_key', limit_key end
if unique then changes[#changes + 1], changes[#changes + 2] = 'unique', unique end

expect('set', slot(now_ms))
local known = answered(nonce, now_ms, {'OK', 'INDEPENDENT'})
if known then return known end
local place, letter = locate(job)
local found = (place == 'dead' or ended) and aside[place] and entry_at(aside[place], letter)
if not found or only ~= '' and only ~= letter then return 'NOT_FOUND' end
if due_at > now_ms then
  expect('zset', KEYS.due)
  expect('hash', KEYS.delayed)
else
  expect('stream', unpack(streams))
end

local add, write = requeuing(now_ms, exact_ms)
if from_step then expect('hash', KEYS['steps:'] .. job) end
local refused, is_independent = add(aside[place], letter, job, found, changes, due_at, from_step)
if refused then return ({duplicate = 'DUPLICATE', ['no step'] = 'NO_STEP'})[refused] or 'OVERSIZED' end
write()
local word = is_independent and 'INDEPENDENT' or 'OK'
remember({word .. ' ' .. nonce}, now_ms)
return word
