-- finish: end jobs that are done, cancelled or deleted. `entries` has their entries by stream; the caller removes
-- a delayed job itself. `uniques` is a flat list of unique keys and the ids of their holders. `pushes` are the
-- pushes that may still be repeated, see push_of. With `no_signals` the caller knows that no job keeps any
-- signals. (A dead letter has not ended: its id is still taken.)
--- @include remove free remember count
local function finish(counter, entries, ids, uniques, pushes, now_ms, no_signals)
  for stream, ended in pairs(entries) do remove(stream, unpack(ended)) end
  redis.call('HDEL', KEYS.jobs, unpack(ids))
  if not no_signals then redis.pcall('HDEL', KEYS.signals, unpack(ids)) end
  for i = 1, #uniques, 2 do free(uniques[i], uniques[i + 1]) end
  remember(pushes, now_ms)
  count(counter, #ids)
end
