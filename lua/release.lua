#!lua flags=allow-oom
-- release: hand back all that a worker holds, and forget the worker: it ends, or is known to have died. Its jobs are for
-- others at once, in their place.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  refund        '1': the deliveries do not count, as nothing runs any more; '0': they do, as what ran may be what
--                        ended it; and so they do where the worker was fenced before
-- ARGV[3]  watch         '1': a read of it may still be under way, so its consumer is looked at again, as that of a
--                        worker that was fenced is
-- ARGV[4]  now_ms        int ms; '' = the server's clock
--
-- Returns  how many jobs were handed back: some 500 a call, so call again while there are any

--- @include now expect streams tell fence hand_back_held forget count tell_turn

local worker, refund, watch, now_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', now(ARGV[4])

expect('stream', streams[1], streams[2], streams[3])
expect('zset', KEYS.workers, KEYS.fenced)
expect('string', KEYS.promoter)
expect('hash', KEYS.jobs, KEYS.limits, KEYS.shares)
expect('zset', KEYS.turns, KEYS.lines)

if string.match(redis.call('GET', KEYS.promoter) or '', '^%d+ (.+)$') == worker then
  redis.call('DEL', KEYS.promoter)
  tell('left') -- whoever looks next for lost workers is the next
end
local was_fenced = redis.call('ZSCORE', KEYS.fenced, worker)
if was_fenced then
  refund = 0
elseif refund == 0 then
  fence(worker, now_ms)
end
local released = hand_back_held(worker, 500, refund, now_ms)
if released == 0 and refund > 0 then
  if watch then
    fence(worker, now_ms)
  else
    forget(worker)
    redis.call('ZREM', KEYS.workers, worker)
    redis.call('DEL', KEYS['worker:'] .. worker)
  end
end

if released > 0 then
  count('released', released)
  tell('released ' .. released)
end
tell_turn() -- it may be the one that was to look then
return released
