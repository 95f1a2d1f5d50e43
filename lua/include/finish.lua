-- finish: the end of jobs, of one or of a whole batch. Whatever ends a job comes here: it is done, cancelled or deleted. Its
-- entry and its lease go, its locator, its unique key; its push is remembered, and it is counted. Nothing else is left of
-- it. (A dead letter has not ended, as its id is still taken: see dead_letter.)
--
-- `keys` has jobs, unique, ending, stats; `jobs` is nil where the locator is another job's. `entries` has those of each
-- stream; none of a delayed job, which whoever ends it takes out of `due` and `delayed`. `uniques` is a flat list: a unique
-- key, the id of the job that may hold it. `pushes` are those that may be repeated yet: see push_of. Needs remove, free,
-- remember, count beside it.
local function finish(keys, counter, entries, ids, uniques, pushes)
  for stream, ended in pairs(entries) do remove(stream, unpack(ended)) end
  if keys.jobs then redis.call('HDEL', keys.jobs, unpack(ids)) end
  for i = 1, #uniques, 2 do free(keys.unique, uniques[i], uniques[i + 1]) end
  remember(keys.ending, pushes)
  count(keys.stats, counter, #ids)
end
