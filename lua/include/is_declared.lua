-- is_declared: whether a living scheduler declares a schedule, by what `schedule` knows of it: one of that release has said so
-- within 30 s. A time in the future, after the clock was set back, does not count: that scheduler may be gone.
local function is_declared(schedulers, known, now_ms)
  if type(known) ~= 'table' or not known.declared_by then return false end
  local seen_at = redis.call('ZSCORE', schedulers, known.release or '')
  return seen_at and math.abs(now_ms - tonumber(seen_at)) < 30000
end
