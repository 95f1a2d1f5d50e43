#!lua flags=no-writes,allow-oom
-- pauses: list paused names, and count held jobs. Writes nothing.
-- Returns {since, {name, since, ...}, held}: since when the queue is paused, ms, '' if it is not; since when each
--         job name is paused; the number of held jobs

local since = redis.pcall('GET', KEYS.paused) or ''
if type(since) == 'table' then since = '0' end -- another type: only its existence counts
return {since, redis.call('HGETALL', KEYS['paused:names']), redis.call('HLEN', KEYS.held)}
