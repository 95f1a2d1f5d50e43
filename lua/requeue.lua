#!lua flags=allow-oom
-- requeue: give a dead letter another life: ready again, under its old id, with all its attempts.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  dead          stream  dead letters: the entry's fields, and the notes
-- KEYS[6]  stats         hash    counters
--
-- ARGV[1]  job           job id
--
-- Returns  OK         ready
--          NOT_FOUND  no dead letter has this id; nothing was written
--          OVERSIZED  put in by hand with more values than a script can add; nothing was written

--- @include "include/field"
--- @include "include/with"

local ready = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local jobs, dead, stats = KEYS[4], KEYS[5], KEYS[6]
local job = ARGV[1]

local letter = string.match(redis.call('HGET', jobs, job) or '', '^dead (%S+)$')
local found = letter and redis.call('XRANGE', dead, letter, letter)[1]
if not found then return 'NOT_FOUND' end
if field(found[2], 'entry') and not field(found[2], 'queued_at') then return 'OVERSIZED' end -- as bury packs it

local stream = ready[field(found[2], 'priority') or ''] or ready.normal
local fields = with(found[2], {
  'reason', '', 'error', '', 'traceback', '', 'failed_at', '', 'worker', '', 'deliveries', '',
  'priority', '', 'attempt', '', 'unknown_since', '', 'expires_at', '', 'unique', '',
})
local entry = redis.call('XADD', stream, '*', unpack(fields))
redis.call('HSET', jobs, job, string.match(stream, '}:(.+)$') .. ' ' .. entry)
redis.call('XDEL', dead, letter)
redis.call('HINCRBY', stats, 'requeued', 1)
return 'OK'
