-- due_time: when a job may run, in whole ms. '' or '+0' is now, '+5000' is in 5000 ms, any other text is a time.
-- The result is rounded up from `exact_ms`, the time to the microsecond, so that no job runs too early.
local function due_time(text, exact_ms)
  if text == '' or text == '+0' then return 0 end
  if string.sub(text, 1, 1) == '+' then return math.ceil(exact_ms + tonumber(string.sub(text, 2))) end
  return tonumber(text)
end
