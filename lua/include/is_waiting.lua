-- is_waiting: whether an entry that this consumer has is ready: it was handed back or is parked, or nobody has it.
local function is_waiting(consumer)
  return not consumer or consumer == 'released' or consumer == 'parked'
end
