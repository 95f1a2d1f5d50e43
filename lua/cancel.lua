#!lua flags=allow-oom
-- cancel: remove a waiting job, or ask the worker that runs it to cancel its handler. A call that is repeated
-- because its reply was lost gets the same answer. That holds even if the job has ended meanwhile, or another job
-- has its id.
--
-- ARGV[1]  job           job id
-- ARGV[2]  nonce         tells this cancel from others
-- ARGV[3]  now_ms        int ms; '' = the server's clock
-- Returns  CANCELLED   it was delayed, suspended or ready, and is removed
--          CANCELLING  it runs: a mark is in its locator, and a count in its worker's record, where the next beat
--                      finds it
--          DEAD        it is a dead letter; nothing was written
--          NOT_FOUND   no such job, or it ended; nothing was written

--- @include now expect slot ends cancel_one answered remember
local job, nonce, now_ms = ARGV[1], ARGV[2], now(ARGV[3])

expect('set', slot(now_ms))
expect('hash', KEYS.held)
local known = answered(nonce, now_ms, {'CANCELLED', 'CANCELLING'})
if known then return known end
local word = cancel_one({ends = ends()}, job, now_ms)
if word == 'CANCELLED' or word == 'CANCELLING' then remember({word .. ' ' .. nonce}, now_ms) end
return word
