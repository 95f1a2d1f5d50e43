#!lua flags=allow-oom
-- reclaim: take over jobs whose lease ran out: their worker died or lost touch. Each stream is scanned on
-- from a cursor (from the start each time, healthy jobs would hide orphans behind them). A job that has to run alone
-- from now on passes to the consumer `released`, for a worker that runs nothing to claim.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters
-- KEYS[6]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[7]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: ids, after a nonce if there was one
-- KEYS[8]  stats         hash    counters
-- KEYS[9]  control       channel notifications
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  count         int     most jobs to take over
-- ARGV[3]  lease_ms      int ms  a lease not renewed for this long has run out
-- ARGV[4]  max_deliveries int    this often a job is delivered without an outcome, the last time alone; then it is dead
-- ARGV[5]  cursor        entry id to scan ready:high from; 0-0 at first
-- ARGV[6]  cursor        the same for ready:normal
-- ARGV[7]  cursor        the same for ready:low
-- ARGV[8]  latest_ms     int ms; '' = any. Should the clock be later than that, it was set, or this is another
--                        server: all leases may seem to have run out then, and nothing is taken
-- ARGV[9]  now_ms        int ms; '' = the server's clock
--
-- Returns  {cursor, cursor, cursor, jobs, ended, elsewhere, waiting}: where to go on, for each job taken over
--          {stream 1..3, entry, deliveries, {name, value, ...}}, for each that was ended instead
--          {id, word}: `CANCELLED`, as was asked while it ran, or `DEAD`, a dead letter that kills its
--          workers, or `NO_IDS`, it stays, as `dead` has no entry ids left, by somebody's hand; how many leases others
--          still have; and how many jobs were seen that wait for a worker with nothing else to run. Or one word:
--          CLOCK_SET   it is later than `latest_ms`; nothing was written

--- @include "include/now"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/free"
--- @include "include/push_of"
--- @include "include/slot"
--- @include "include/remember"
--- @include "include/pushed_at"
--- @include "include/bury"
--- @include "include/count"
--- @include "include/tell"
--- @include "include/unlocate"
--- @include "include/deliver"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local jobs, dead, unique, finished, stats = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local control = KEYS[9]
local worker, most, lease_ms, max_deliveries = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local cursors = {ARGV[5], ARGV[6], ARGV[7]}
local latest_ms, now_ms = tonumber(ARGV[8]), now(ARGV[9])
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local keys = {jobs = jobs, dead = dead, unique = unique, stats = stats, ended = {}}
keys.places, keys.ending = places, slot(finished, now_ms)

if latest_ms and now_ms > latest_ms then return 'CLOCK_SET' end
expect('stream', streams[1], streams[2], streams[3], dead)
expect('hash', jobs)
expect('set', keys.ending)

local claimed, released, waiting = {}, 0, 0
local function never() return false end

-- `waited_ms` is for how long it has been with `released` already. It keeps that time, by which workers see how long it has
-- been waiting, and nobody is told again.
local function take(number, stream, entry, waited_ms)
  local deliveries = redis.call('XPENDING', stream, 'workers', entry, entry, 1, worker)[1][4]
  local fields, how = deliver(keys, stream, entry, deliveries + 1, max_deliveries, worker, now_ms, never)
  if fields then
    claimed[#claimed + 1] = {number, entry, deliveries + 1, fields}
  elseif how ~= 'ended' then
    redis.call('XCLAIM', stream, 'workers', 'released', 0, entry,
      'IDLE', waited_ms or 0, 'RETRYCOUNT', deliveries, 'JUSTID')
    if how == 'waits' then waiting = waiting + 1 end
    if not waited_ms then released = released + 1 end
  end
end

for number, stream in ipairs(streams) do
  local released_before = leases(stream, 'idle', lease_ms, cursors[number], '+', 500, 'released')
  local waited_ms = {}
  for _, pending in ipairs(released_before or {}) do waited_ms[pending[1]] = pending[3] end
  local looks = released_before and 50 or 0 -- XAUTOCLAIM looks at ten entries for each it may take
  while most > #claimed and looks > 0 do
    local room = most - #claimed
    local scan =
      redis.call('XAUTOCLAIM', stream, 'workers', worker, lease_ms, cursors[number], 'COUNT', room, 'JUSTID')
    cursors[number], looks = scan[1], scan[1] == '0-0' and 0 or looks - math.min(room, 50)
    for _, entry in ipairs(scan[2]) do take(number, stream, entry, waited_ms[entry]) end
    for _, entry in ipairs(scan[3]) do unlocate(jobs, stream, entry) end -- the server has dropped the leases
  end
end

if released > 0 then tell(control, 'released ' .. released) end
if #claimed > 0 then count(stats, 'reclaimed', #claimed) end
local elsewhere = 0
for _, stream in ipairs(streams) do
  for _, held in ipairs((leases(stream) or {})[4] or {}) do
    if held[1] ~= worker and held[1] ~= 'released' then elsewhere = elsewhere + tonumber(held[2]) end
  end
end
return {cursors[1], cursors[2], cursors[3], claimed, keys.ended, elsewhere, waiting}
