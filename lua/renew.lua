#!lua flags=allow-oom
-- renew: start the leases of a worker's jobs anew, and say that the worker is alive.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  worker:       hash    prefix; worker:<id> tells of one live worker, and ends with it
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  alive_ms      int ms  how long worker:<id> outlives this call
-- ARGV[3]  facts         int     number of values that tell of the worker
-- ARGV[4..] the worker's names and values; then for each job: stream 1..3, entry, deliveries, job id
--
-- Returns  one word for each job:
--          OK          renewed
--          CANCELLING  renewed, and somebody asked for the job to be cancelled
--          LEASE_LOST  somebody else holds the job; nothing was written

--- @include "include/expect"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/owns"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, worker_prefix = KEYS[4], KEYS[5]
local worker, alive_ms, facts = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first_fact = 4

expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs, worker_prefix .. worker)
local words = {}
for at = first_fact + facts, #ARGV, 4 do
  local stream, entry = streams[tonumber(ARGV[at])], ARGV[at + 1]
  local hold = owns(places, stream, jobs, worker, entry, ARGV[at + 2], ARGV[at + 3])
  if hold then
    redis.call('XCLAIM', stream, 'workers', worker, 0, entry, 'JUSTID')
    words[#words + 1] = hold == 'cancelling' and 'CANCELLING' or 'OK'
  else
    words[#words + 1] = 'LEASE_LOST'
  end
end

if facts > 0 then
  local alive = worker_prefix .. worker
  redis.call('HSET', alive, unpack(ARGV, first_fact, first_fact + facts - 1))
  redis.call('PEXPIRE', alive, alive_ms)
end
return words
