-- finish_one: finish one job whose fields are known; if it was delayed, `stream` is nil and `priority` is given.
-- The push of an old job that is done is not remembered: it can't be repeated. `ending` has `ends` and `kept`, as
-- these includes return them. `result` comes from the worker: how long to keep it (else the entry says so), word,
-- text.
--- @include push_of field conclude finish keep keep_reported with_history forget_steps end_child
local function finish_one(ending, counter, stream, entry, job, fields, now_ms, notes, priority, result)
  --- @include times
  local entries = stream and {[stream] = {entry}} or {}
  local is_old = counter == 'completed' and tonumber(string.match(entry, '^%d+')) <= now_ms - remembered_ms
  local pushes = is_old and {} or {push_of(job, field(fields, 'nonce'))}
  local keep_ms, word, text = unpack(result or {})
  if (keep_ms or '') == '' then keep_ms = field(fields, 'keep_result') end
  if word == 'reported' then keep_reported(job, 0) end
  if (word or '') == '' or word == 'reported' then word, text = counter, nil end
  conclude(ending.ends, job, word, text, keep_ms)
  priority = priority or string.match(stream, '}:ready:(.+)$')
  if ending.kept[counter] then notes = with_history(notes, fields, priority .. ' ' .. entry) end
  finish(counter, entries, {job}, {field(fields, 'unique') or '', job}, pushes, now_ms)
  forget_steps({job}, now_ms, counter == 'cancelled')
  end_child(fields, word == 'reported' and counter or word, text, now_ms)
  keep(ending, counter, priority, entry, job, fields, notes, now_ms)
end
