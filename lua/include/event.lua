-- event: a line of a job's history: the time, the event, the worker and attempt, and a note in one line.
--- @include whole
local function event(now_ms, what, worker, attempt, note)
  worker = (string.gsub(worker or '-', '%s', '_'))
  local words = {whole(now_ms), what, worker, attempt or '-',
    (string.gsub(string.sub(note or '', 1, 1000), '%s+', ' '))}
  return table.concat(words, ' ')
end
