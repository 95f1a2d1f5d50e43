-- finish_one: finish, for one job of which the fields are known; `stream` is nil if it was delayed. What is done more than a
-- minute after it was pushed is not remembered, as no push of it can be repeated any more. Where the queue keeps such it
-- stays in sight; `priority` is that of a delayed one, and `notes` are what is known of its run: see keep. `told` is what its
-- worker says of its result: for how long it is kept, which else the entry says, the word, the text; see conclude. Needs field,
-- push_of, finish, keep, conclude beside it.
local function finish_one(keys, counter, stream, entry, job, fields, now_ms, notes, priority, told)
  local entries = stream and {[stream] = {entry}} or {}
  local is_old = counter == 'completed' and tonumber(string.match(entry, '^%d+')) <= now_ms - 60000
  local pushes = is_old and {} or {push_of(job, field(fields, 'nonce'))}
  local keep_ms, word, text = unpack(told or {})
  if (keep_ms or '') == '' then keep_ms = field(fields, 'keep_result') end
  if (word or '') == '' then word, text = counter, nil end
  conclude(keys.ends, job, word, text, keep_ms)
  finish(keys, counter, entries, {job}, {field(fields, 'unique') or '', job}, pushes)
  priority = priority or string.match(stream, '}:ready:(.+)$')
  keep(keys, counter, priority, entry, job, fields, notes, now_ms)
end
