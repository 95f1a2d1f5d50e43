#!lua flags=allow-oom
-- screen: sort out jobs that a worker has just read and that may not start. They count as never delivered: they are parked,
-- handed back if the queue is paused, or put in a waiting line.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] for each job: stream 1..3, entry
-- Returns  for each job 1 if the worker has it and it may start, else 0. Or one word:
--          FENCED  the worker has no record any more; nothing was written

--- @include now alive expect streams restrictions limiter entry_at field hand_back give_up leases tell_turn
local worker, now_ms, exact_ms = ARGV[1], now(ARGV[2])
local first_job = 3

if not alive(worker) then return 'FENCED' end
expect('stream', unpack(streams))
expect('hash', KEYS.jobs, KEYS.shares)
expect('zset', KEYS.turns, KEYS.lines)
local restricted = restrictions()
local limiting = restricted and restricted.limited and limiter(now_ms, math.floor(exact_ms * 1000 + 0.5))

-- Pass a job on if it may not start. Returns whether the worker keeps it.
local function keeps(stream, entry, deliveries)
  local fields = restricted and entry_at(stream, entry)
  if not fields then return true end
  local place = string.match(stream, '[^:]+$')
  local is_parked = restricted.job and restricted.job(field(fields, 'id') or '', fields)
  if is_parked or restricted.all then
    hand_back(stream, deliveries, {entry}, is_parked and 'parked' or 'released')
    give_up({place .. ' ' .. entry}, now_ms, true) -- it has a share if it was claimed into a lost reply
    return false
  end
  local bucket = limiting and limiting.start(place .. ' ' .. entry, fields)
  if bucket then limiting.line_up(stream, deliveries, {entry}, bucket) end
  return not bucket
end

local answers = {}
for at = first_job, #ARGV, 2 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local pending = (leases(stream, entry, entry, 1, worker) or {})[1]
  answers[#answers + 1] = pending and keeps(stream, entry, math.max(0, pending[4] - 1)) and 1 or 0
end
-- The answer to a read has no time of the next turn, so notify all workers. That is rare: few jobs with limits arrive by a read.
if limiting and limiting.has_turned then tell_turn() end
return answers
