-- due_time: when a job may run, in whole ms: '' or '+0' is at once, '+5000' that many ms from now, else a time.
-- Rounded up, as `exact_ms` is now to the microsecond: no job may run before its time.
local function due_time(text, exact_ms)
  if text == '' or text == '+0' then return 0 end
  if string.sub(text, 1, 1) == '+' then return math.ceil(exact_ms + tonumber(string.sub(text, 2))) end
  return tonumber(text)
end
