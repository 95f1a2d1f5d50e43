-- is_waiting: whether a job with this consumer is ready. It is if it has none, was handed back, parked or lined
-- up, or must run alone.
local function is_waiting(consumer)
  if not consumer or string.sub(consumer, 1, 5) == 'line:' then return true end
  return consumer == 'released' or consumer == 'alone' or consumer == 'parked'
end
