#!lua flags=allow-oom
-- recover: the jobs that a worker holds beyond those it names: they were delivered into a reply that it never saw, or to a
-- read that arrived when it had been given up. They are still its own, so it can run them; the deliveries stay as they are.
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
-- ARGV[5..] entries the worker knows that it holds, as `1 1732-0`: stream 1..3, entry
--
-- Returns  {more, jobs}: 1 if there may be more, so call again with these named as well; for each job {stream 1..3, entry,
--          deliveries, {name, value, ...}}. Or one word:
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
local first_held = 5
local keys = {limits = KEYS[5], shares = KEYS[6], holders = KEYS[7], rate = KEYS[8], turns = KEYS[9], lines = KEYS[10]}

expect('stream', streams[1], streams[2], streams[3])
expect('hash', keys.limits, keys.shares)
expect('zset', keys.turns, keys.lines)
if not alive(record) then return 'FENCED' end

local held, most = {}, 500 + #ARGV - first_held + 1 -- to look at: those it knows may come first
for at = first_held, #ARGV do held[ARGV[at]] = true end

local found, bytes, more = {}, 0, 0
for number, stream in ipairs(streams) do
  local from, seen = '-', 0
  repeat
    local page = leases(stream, 'IDLE', idle_ms, from, '+', 100, worker) or {}
    for _, pending in ipairs(page) do
      local entry = pending[1]
      from, seen = '(' .. entry, seen + 1
      if not held[number .. ' ' .. entry] then
        if bytes >= most_bytes then return {1, found} end
        local fields = entry_at(stream, entry)
        if fields then
          found[#found + 1] = {number, entry, pending[4], fields}
          bytes = bytes + bytes_of(fields)
        else -- removed by hand while it was leased
          redis.call('XACK', stream, 'workers', entry)
          give_up(keys, {string.match(stream, '}:(.+)$') .. ' ' .. entry}, now_ms)
        end
      end
    end
  until #page < 100 or seen >= most
  if seen >= most then more = 1 end
end
return {more, found}
