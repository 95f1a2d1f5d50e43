-- tell_turn: publish when the next turn is: the worker that was to look then may be gone.
--- @include tell
local function tell_turn()
  local turn = redis.call('ZRANGE', KEYS.turns, 0, 0, 'WITHSCORES')[2]
  if turn then tell('due ' .. turn) end
end
