#!lua flags=allow-oom
-- release: hand jobs back without an outcome, at once and in their place: they pass to the consumer `released`,
-- from which claim takes before it reads anything new.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  stats         hash    counters
-- KEYS[6]  control       channel notifications
--
-- ARGV[1]  worker        worker id
-- ARGV[2..] for each job: stream 1..3, entry, deliveries, job id, refund ('1': the delivery does not count,
--          '0': it does, as what ran may be what ended the worker)
--
-- Returns  one word for each job:
--          OK          released
--          LEASE_LOST  somebody else holds the job; nothing was written

--- @include "include/expect"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/owns"
--- @include "include/count"
--- @include "include/tell"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, stats, control = KEYS[4], KEYS[5], KEYS[6]
local worker = ARGV[1]
local first_job = 2

expect('stream', streams[1], streams[2], streams[3])
expect('hash', jobs)
local words, released = {}, 0
for at = first_job, #ARGV, 5 do
  local stream, entry, deliveries = streams[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local refund = tonumber(ARGV[at + 4])
  if owns(places, stream, jobs, worker, entry, deliveries, ARGV[at + 3]) then
    redis.call('XCLAIM', stream, 'workers', 'released', 0, entry,
      'RETRYCOUNT', tonumber(deliveries) - refund, 'JUSTID')
    released = released + 1
    words[#words + 1] = 'OK'
  else
    words[#words + 1] = 'LEASE_LOST'
  end
end

if released > 0 then
  count(stats, 'released', released)
  tell(control, 'released ' .. released)
end
return words
