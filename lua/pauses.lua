#!lua flags=no-writes,allow-oom
-- pauses: what may not start now. Writes nothing.
--
-- KEYS[1] paused       string  there while the queue is paused
-- KEYS[2] paused:names hash    job names that are paused -> since when, ms
-- KEYS[3] held         hash    ids of jobs that are held -> since when, ms
--
-- Returns {since, {name, since, ...}, held}: since when the queue is paused, '' if it is not, in ms; the same of job
--         names; and how many jobs are held

local paused, names, held = KEYS[1], KEYS[2], KEYS[3]

local since = redis.pcall('GET', paused) or ''
if type(since) == 'table' then since = '0' end -- made by hand as something else: that it is there is what counts
return {since, redis.call('HGETALL', names), redis.call('HLEN', held)}
