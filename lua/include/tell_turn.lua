-- tell_turn: tell workers when the next of a waiting line may start, as whoever was to look then may be gone. Needs tell
-- beside it.
local function tell_turn(turns, control)
  local turn = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')[2]
  if turn then tell(control, 'due ' .. turn) end
end
