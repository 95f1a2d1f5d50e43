#!lua flags=allow-oom
-- ack: settle jobs as done and forget them.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[6]  finished:     set     prefix; finished:<n> holds what ended in those 5 s: ids, after a nonce if there was one
-- KEYS[7]  stats         hash    counters
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  counter       what the jobs count as: completed, or cancelled
-- ARGV[3]  now_ms        int ms; '' = the server's clock
-- ARGV[4..] for each job: stream 1..3, entry, deliveries, job id, unique key ('' none), nonce ('' none)
--
-- Returns  one word for each job:
--          OK          settled and gone
--          LEASE_LOST  somebody else holds the job; nothing was written

--- @include "include/now"
--- @include "include/expect"
--- @include "include/field"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/owns"
--- @include "include/free"
--- @include "include/push_of"
--- @include "include/slot"
--- @include "include/remember"
--- @include "include/count"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local jobs, unique, finished, stats = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local worker, counter, now_ms = ARGV[1], ARGV[2], now(ARGV[3])
local ending = slot(finished, now_ms)
local first_job = 4

local words, located, young, uniques = {}, {}, {}, {}
local settled, total = {{}, {}, {}}, 0
for at = first_job, #ARGV, 6 do
  local number, entry = tonumber(ARGV[at]), ARGV[at + 1]
  local hold, job = owns(places, streams[number], jobs, worker, entry, ARGV[at + 2], ARGV[at + 3])
  if hold then
    table.insert(settled[number], entry)
    if hold ~= 'stray' then located[#located + 1] = job end
    -- Only a job pushed within the last minute can still see its push repeated.
    if tonumber(string.match(entry, '^%d+')) > now_ms - 60000 then
      young[#young + 1] = push_of(job, ARGV[at + 5])
    end
    if ARGV[at + 4] ~= '' then uniques[#uniques + 1] = {ARGV[at + 4], job} end
    total = total + 1
    words[#words + 1] = 'OK'
  else
    words[#words + 1] = 'LEASE_LOST'
  end
end

if #young > 0 then expect('set', ending) end
if total > 0 then count(stats, counter, total) end
for number, entries in ipairs(settled) do
  if #entries > 0 then
    redis.call('XACK', streams[number], 'workers', unpack(entries))
    redis.call('XDEL', streams[number], unpack(entries))
  end
end
if #located > 0 then redis.call('HDEL', jobs, unpack(located)) end
for _, held in ipairs(uniques) do free(unique, held[1], held[2]) end
remember(ending, young)
return words
