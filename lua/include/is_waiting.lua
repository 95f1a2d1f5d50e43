-- is_waiting: whether an entry that this consumer has is ready: it was handed back, has to run alone, is parked or waits in a
-- line, or nobody has it.
local function is_waiting(consumer)
  if not consumer or string.sub(consumer, 1, 5) == 'line:' then return true end
  return consumer == 'released' or consumer == 'alone' or consumer == 'parked'
end
