#!lua flags=allow-oom
-- screen: sort out jobs that a worker has just read and that may not start. They count as never delivered. They
-- are parked, handed back if the queue is paused, or put in a waiting line. Jobs that were cancelled meanwhile
-- end.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] for each job: stream 1..3, entry
-- Returns  for each job 1 if the worker has it and it may start; else 0, or 2 if a cancel was requested and it is
--          gone. Or one word:
--          FENCED  the worker's record is gone; nothing was written

--- @include now alive expect streams restrictions limiter entry_at field hand_back give_up leases tell_turn slot
--- @include kept ends mark_of finish_one whole tell_others
local worker, now_ms, exact_ms = ARGV[1], now(ARGV[2])
local first_job = 3

if not alive(worker) then return 'FENCED' end
expect('stream', unpack(streams))
expect('hash', KEYS.jobs, KEYS.shares)
expect('zset', KEYS.turns, KEYS.lines)
expect('set', slot(now_ms))
local restricted, ending = restrictions(), {kept = kept(), ends = ends()}
local limiting = restricted and restricted.limited and limiter(now_ms, math.floor(exact_ms * 1000 + 0.5))

-- Pass a job on if it may not start, or end it. Return the answer.
local function sort_out(stream, entry, deliveries)
  local fields = restricted and entry_at(stream, entry)
  if not fields then return 1 end
  local place, job = string.match(stream, '[^:]+$'), field(fields, 'id') or ''
  if mark_of(job, place, entry) == 'cancelling' then -- no claim would reach a parked job
    give_up({place .. ' ' .. entry}, now_ms, true) -- first: it reads the entry
    finish_one(ending, 'cancelled', stream, entry, job, fields, now_ms, {'deliveries', whole(deliveries)})
    redis.call('HDEL', KEYS.held, job)
    return 2
  end
  local is_parked = restricted.job and restricted.job(job, fields)
  if is_parked or restricted.all then
    hand_back(stream, deliveries, {entry}, is_parked and 'parked' or 'released')
    give_up({place .. ' ' .. entry}, now_ms, true) -- it has a share if it was claimed into a lost reply
    return 0
  end
  local bucket = limiting and limiting.start(place .. ' ' .. entry, fields)
  if bucket then limiting.line_up(stream, deliveries, {entry}, bucket) end
  return bucket and 0 or 1
end

local answers = {}
for at = first_job, #ARGV, 2 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local pending = (leases(stream, entry, entry, 1, worker) or {})[1]
  answers[#answers + 1] = pending and sort_out(stream, entry, math.max(0, pending[4] - 1)) or 0
end
tell_others(ending.ends)
-- The answer to a read has no time of the next turn, so notify all workers. That is rare, because few jobs with
-- limits arrive by a read.
if limiting and limiting.has_turned then tell_turn() end
return answers
