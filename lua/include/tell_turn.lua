-- tell_turn: publish the time of the next turn, because the worker that should look then may be gone.
--- @include tell
local function tell_turn()
  local turn = redis.call('ZRANGE', KEYS.turns, 0, 0, 'WITHSCORES')[2]
  if turn then tell('due ' .. turn) end
end
