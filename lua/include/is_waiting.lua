-- is_waiting: whether a job with this consumer is ready: it has none, or was handed back, parked, lined up, or has
-- to run alone.
local function is_waiting(consumer)
  if not consumer or string.sub(consumer, 1, 5) == 'line:' then return true end
  return consumer == 'released' or consumer == 'alone' or consumer == 'parked'
end
