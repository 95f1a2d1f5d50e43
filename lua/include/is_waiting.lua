-- is_waiting: whether an entry that this consumer has is ready: it was handed back, is parked or waits in a line, or nobody
-- has it.
local function is_waiting(consumer)
  return not consumer or consumer == 'released' or consumer == 'parked' or string.sub(consumer, 1, 5) == 'line:'
end
