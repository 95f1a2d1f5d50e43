#!lua flags=allow-oom
-- delete: delete a dead letter, or a kept job that has ended. Its push is remembered. A call that is repeated
-- because its reply was lost gets the same answer, and deletes no other job.
--
-- ARGV[1]  job           job id
-- ARGV[2]  nonce         tells this call from others
-- ARGV[3]  now_ms        int ms; '' = the server's clock
-- Returns  OK         it is deleted
--          NOT_FOUND  there is no such dead letter, or kept job; nothing was written

--- @include now locate entry_at expect slot finish push_of field group_out forget_steps answered remember
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local job, nonce, now_ms = ARGV[1], ARGV[2], now(ARGV[3])

expect('set', slot(now_ms))
local known = answered(nonce, now_ms, {'OK'})
if known then return known end
local place, letter = locate(job)
local fields = aside[place] and entry_at(aside[place], letter)
if not fields then return 'NOT_FOUND' end

-- No dead letter or kept job holds a unique key.
finish('deleted', {[aside[place]] = {letter}}, {job}, {}, {push_of(job, field(fields, 'nonce'))}, now_ms)
if place == 'dead' then
  group_out({{letter, fields}})
  forget_steps({job}, now_ms)
end
remember({'OK ' .. nonce}, now_ms)
return 'OK'
