#!lua flags=allow-oom
-- screen: of jobs that a worker has just read, keep it those that may start. The others count as never delivered: they are
-- parked where their name is paused or they are held, and else, where the queue is paused, handed back; those over their
-- limit wait in line.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[6]  paused        string  there while the queue is paused
-- KEYS[7]  paused:names  hash    job names that are paused -> since when, ms
-- KEYS[8]  held          hash    ids of jobs that are held -> since when, ms
-- KEYS[9]  limits        hash    job name -> its limit, in words
-- KEYS[10] shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[11] holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[12] rate:         string  prefix; rate:<name> <key> has the theoretical arrival time of its next job, µs
-- KEYS[13] turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[14] lines         zset    names and keys that have a waiting line, in alphabetical order
-- KEYS[15] control       channel notifications
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  now_ms        int ms; '' = the server's clock
-- ARGV[3..] for each job: stream 1..3, entry
--
-- Returns  for each job 1 if the worker has it and it may start, else 0. Or one word:
--          FENCED  the worker has no record any more; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/alive"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/may_not_start"
--- @include "include/restrictions"
--- @include "include/hand_back"
--- @include "include/tell"
--- @include "include/tell_turn"
--- @include "include/limit_of"
--- @include "include/arrival"
--- @include "include/room"
--- @include "include/take_share"
--- @include "include/give_up"
--- @include "include/limiter"

local streams, jobs, record = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5] .. ARGV[1]
local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local worker, now_ms, exact_ms = ARGV[1], now(ARGV[2])
local first_job = 3
local keys = {limits = KEYS[9], shares = KEYS[10], holders = KEYS[11], rate = KEYS[12], turns = KEYS[13], lines = KEYS[14]}
local control = KEYS[15]

if not alive(record) then return 'FENCED' end
expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs)
expect('hash', keys.shares)
expect('zset', keys.turns, keys.lines)
local restricted = restrictions(KEYS[6], KEYS[7], KEYS[8], keys.limits)
local limiting = restricted and restricted.limited and limiter(keys, now_ms, math.floor(exact_ms * 1000 + 0.5))

-- Let a job that may not start go elsewhere. Returns whether the worker keeps it.
local function keeps(stream, entry, deliveries)
  local fields = restricted and entry_at(stream, entry)
  if not fields then return true end
  local place = string.match(stream, '[^:]+$')
  local is_parked = restricted.job and restricted.job(identify(places, jobs, place, entry, fields), fields)
  if is_parked or restricted.all then
    hand_back(stream, deliveries, {entry}, is_parked and 'parked' or 'released')
    give_up(keys, {place .. ' ' .. entry}, now_ms, true) -- of one that was claimed into a lost reply
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
-- A read tells nobody when to look next, and few jobs come by one: so all are told.
if limiting and limiting.has_turned then tell_turn(keys.turns, control) end
return answers
