#!lua flags=allow-oom
-- delete: throw a dead letter away.
--
-- KEYS[1]  jobs          hash    the locator: job id -> where it is
-- KEYS[2]  dead          stream  dead letters
-- KEYS[3]  stats         hash    counters
--
-- ARGV[1]  job           job id
--
-- Returns  OK         gone
--          NOT_FOUND  no dead letter has this id; nothing was written

local jobs, dead, stats = KEYS[1], KEYS[2], KEYS[3]
local job = ARGV[1]

local letter = string.match(redis.call('HGET', jobs, job) or '', '^dead (%S+)$')
if not letter then return 'NOT_FOUND' end

redis.call('XDEL', dead, letter)
redis.call('HDEL', jobs, job)
redis.call('HINCRBY', stats, 'deleted', 1)
return 'OK'
