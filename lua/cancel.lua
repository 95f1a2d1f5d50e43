#!lua flags=allow-oom
-- cancel: remove a waiting job, or ask the worker that runs it to cancel its handler.
--
-- ARGV[1]  job           job id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  CANCELLED   it was delayed, suspended or ready, and is removed
--          CANCELLING  it runs: a mark is in its locator, and a count in its worker's record, where the next beat finds it
--          DEAD        it is a dead letter; nothing was written
--          NOT_FOUND   no such job, or it ended; nothing was written

--- @include now expect slot ends cancel_one
local job, now_ms = ARGV[1], now(ARGV[2])

expect('set', slot(now_ms))
expect('hash', KEYS.held)
return (cancel_one({ends = ends()}, job, now_ms))
