#!lua flags=allow-oom
-- delete: delete a dead letter, or a job that has ended and was kept. Its push is remembered.
--
-- ARGV[1]  job           job id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  OK         it is deleted
--          NOT_FOUND  there is no such dead letter, or kept job; nothing was written

--- @include now locate entry_at expect slot finish push_of field group_out forget_steps
local aside = {dead = KEYS.dead, completed = KEYS.completed, cancelled = KEYS.cancelled}
local job, now_ms = ARGV[1], now(ARGV[2])

local place, letter = locate(job)
local fields = aside[place] and entry_at(aside[place], letter)
if not fields then return 'NOT_FOUND' end
expect('set', slot(now_ms))

-- No dead letter or kept job holds a unique key.
finish('deleted', {[aside[place]] = {letter}}, {job}, {}, {push_of(job, field(fields, 'nonce'))}, now_ms)
if place == 'dead' then
  group_out({{letter, fields}})
  forget_steps({job}, now_ms)
end
return 'OK'
