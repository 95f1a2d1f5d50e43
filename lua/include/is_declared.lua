-- is_declared: whether a running scheduler declares a schedule; `schedule` returned the argument. A report in the
-- future does not count: the clock was set back, and that scheduler may be gone.
local function is_declared(known, now_ms)
  --- @include times
  if type(known) ~= 'table' or not known.declared_by then return false end
  local seen_at = redis.call('ZSCORE', KEYS.schedulers, known.release or '')
  return seen_at and math.abs(now_ms - tonumber(seen_at)) < there_ms
end
