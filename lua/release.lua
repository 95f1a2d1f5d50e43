#!lua flags=allow-oom
-- release: hand back all jobs of a worker that ends, or is known to be dead. Forget the worker.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  refund        '1': the deliveries do not count: no handler runs any more; '0': they count: a job may
--                        have killed the worker. They always count if the worker was fenced before
-- ARGV[3]  watch         '1': a read of the worker may be under way, so look at its consumer again, like a fenced
--                        worker's
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- Returns  how many jobs were handed back: up to 500 a call, so call again while there are any

--- @include now expect streams tell fence hand_back_held forget count tell_turn event
local worker, refund, watch, now_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', now(ARGV[4])

expect('stream', unpack(streams))
expect('zset', KEYS.workers, KEYS.fenced, KEYS.turns, KEYS.lines)
expect('string', KEYS.promoter)
expect('hash', KEYS.jobs, KEYS.limits, KEYS.shares)

if string.match(redis.call('GET', KEYS.promoter) or '', '^%d+ (.+)$') == worker then
  redis.call('DEL', KEYS.promoter)
  tell('left') -- the next worker that calls reclaim becomes the promoter
end
local was_fenced = redis.call('ZSCORE', KEYS.fenced, worker)
if was_fenced then
  refund = 0
elseif refund == 0 then
  fence(worker, now_ms)
end
local what = refund > 0 and 'released' or 'worker-lost'
local released = hand_back_held(worker, 500, refund, now_ms, event(now_ms, what, worker))
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
tell_turn() -- this worker may have had to look at that turn
return released
