-- finish: the end of a job that runs or is ready: its entry, its locator and its unique key go, its push is remembered,
-- and it is counted. `keys` has jobs, unique, ending, stats. What can't see its push repeated any more, as it was pushed
-- over a minute ago, is not remembered. `keys.jobs` is nil where the locator is another job's.
-- Needs field, free, push_of, remember, count beside it.
local function finish(keys, stream, entry, job, fields, counter, is_leased, now_ms)
  if is_leased then redis.call('XACK', stream, 'workers', entry) end
  redis.call('XDEL', stream, entry)
  if keys.jobs then redis.call('HDEL', keys.jobs, job) end
  free(keys.unique, field(fields, 'unique'), job)
  if counter ~= 'completed' or tonumber(string.match(entry, '^%d+')) > now_ms - 60000 then
    remember(keys.ending, push_of(job, field(fields, 'nonce')))
  end
  count(keys.stats, counter, 1)
end
