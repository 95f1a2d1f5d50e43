#!lua flags=allow-oom
-- cancel: remove a waiting job, or ask the worker that runs it to cancel its handler.
--
-- ARGV[1]  job           job id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- Returns  CANCELLED   it was delayed, suspended or ready, and is removed
--          CANCELLING  it runs: a mark is in its locator, and a count in its worker's record, where the next beat finds it
--          DEAD        it is a dead letter; nothing was written
--          NOT_FOUND   no such job, or it ended; nothing was written

--- @include stream_of now locate stored expect slot ends kept member holder is_waiting whole tell finish_one note_event event
local job, now_ms = ARGV[1], now(ARGV[2])
local ending = {}

local place, entry, mark = locate(job)
if not place then return 'NOT_FOUND' end
if place == 'dead' then return 'DEAD' end
local fields, priority = stored(job, place .. ' ' .. entry)
if not fields then return 'NOT_FOUND' end
expect('set', slot(now_ms))
expect('hash', KEYS.held)
ending.ends = ends()

local stream = stream_of[place] -- nil: delayed
if place == 'delayed' then
  expect('zset', KEYS.due, KEYS.suspended)
  ending.kept = kept()
  redis.call('ZREM', mark == 'suspended' and KEYS.suspended or KEYS.due, member(entry, job))
  redis.call('HDEL', KEYS.delayed, job)
else
  local consumer = holder(stream, entry)
  if not is_waiting(consumer) then
    expect('hash', KEYS['worker:'] .. consumer)
    redis.call('HSET', KEYS.jobs, job, place .. ' ' .. entry .. ' cancelling')
    local known = redis.call('HMGET', KEYS['worker:'] .. consumer, 'lease_ms', 'cancels')
    if known[1] then -- not HINCRBY: a role without it may cancel
      redis.call('HSET', KEYS['worker:'] .. consumer, 'cancels', whole((tonumber(known[2] or nil) or 0) + 1))
    end
    note_event({place .. ' ' .. entry}, event(now_ms, 'cancel-asked', consumer))
    tell('cancel ' .. job)
    return 'CANCELLING'
  end
end

ending.kept = ending.kept or kept()
redis.call('HDEL', KEYS.held, job)
finish_one(ending, 'cancelled', stream, entry, job, fields, now_ms, {}, priority)
return 'CANCELLED'
