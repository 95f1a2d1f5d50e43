#!lua flags=allow-oom
-- recover: jobs that a worker holds without knowing: they were delivered into a reply that it never saw, or to a read that arrived
-- when it had been given up. It has found their entries in the pending list. They are still its own, so it can run them; the
-- deliveries stay as they are.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  worker:       hash    prefix; worker:<id> is the record of one worker
-- KEYS[5]  limits        hash    job name -> its limit, in words
-- KEYS[6]  shares        hash    place and entry of each limited job that runs -> what it is counted under: name, key
-- KEYS[7]  holders:      zset    prefix; holders:<name> <key> has those places, since when, ms
-- KEYS[8]  rate:         string  prefix; rate:<name> <key> has the theoretical arrival time of its next job, µs
-- KEYS[9]  turns         zset    names and keys with a waiting line -> when one of it may start, ms
-- KEYS[10] lines         zset    names and keys that have a waiting line, in alphabetical order
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  most_bytes    int     no further job once there are so many
-- ARGV[3]  idle_ms       int ms  only those that were delivered at least so long ago
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- ARGV[5..] entries, as `1 1732-0`: stream 1..3, entry; up to 100
--
-- Returns  {looked, jobs}: at how many of the entries it looked, so call again with the others; for each job that is still this
--          worker's {stream 1..3, entry, deliveries, {name, value, ...}}. Or one word:
--          FENCED  the worker has no record any more; nothing was written

--- @include "include/now"
--- @include "include/whole"
--- @include "include/expect"
--- @include "include/leases"
--- @include "include/alive"
--- @include "include/entry_at"
--- @include "include/bytes_of"
--- @include "include/limit_of"
--- @include "include/give_up"

local streams, record = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4] .. ARGV[1]
local worker, most_bytes, idle_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now_ms = now(ARGV[4])
local first_entry = 5
local keys = {limits = KEYS[5], shares = KEYS[6], holders = KEYS[7], rate = KEYS[8], turns = KEYS[9], lines = KEYS[10]}

expect('stream', streams[1], streams[2], streams[3])
expect('hash', keys.limits, keys.shares)
expect('zset', keys.turns, keys.lines)
if not alive(record) then return 'FENCED' end

local found, bytes = {}, 0
for at = first_entry, #ARGV do
  if bytes >= most_bytes then return {at - first_entry, found} end
  local number, entry = string.match(ARGV[at], '^(%d) (.+)$')
  local stream = streams[tonumber(number)]
  local pending = (leases(stream, 'IDLE', idle_ms, entry, entry, 1, worker) or {})[1]
  local fields = pending and entry_at(stream, entry)
  if fields then
    found[#found + 1] = {tonumber(number), entry, pending[4], fields}
    bytes = bytes + bytes_of(fields)
  elseif pending then -- removed by hand while it was leased
    redis.call('XACK', stream, 'workers', entry)
    give_up(keys, {string.match(stream, '[^:]+$') .. ' ' .. entry}, now_ms)
  end
end
return {#ARGV - first_entry + 1, found}
