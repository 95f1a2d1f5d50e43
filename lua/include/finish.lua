-- finish: end jobs, one or many: done, cancelled or deleted. Their entries, leases, locators and unique keys go; their
-- pushes are remembered, and they are counted. (A dead letter has not ended: its id is still taken.)
--
-- `entries` has those of each stream; the caller removes a delayed job itself. `uniques` is a flat list: a unique key,
-- the id of its holder. `pushes` are those that may still be repeated: see push_of.
--- @include remove free remember count
local function finish(counter, entries, ids, uniques, pushes, now_ms)
  for stream, ended in pairs(entries) do remove(stream, unpack(ended)) end
  redis.call('HDEL', KEYS.jobs, unpack(ids))
  for i = 1, #uniques, 2 do free(uniques[i], uniques[i + 1]) end
  remember(pushes, now_ms)
  count(counter, #ids)
end
