-- give_turns: let the next in line of a job name have a turn, in up to 500 of the name's lines that come after `after` in the
-- alphabet; '' for the first of them. Workers are told. Returns after which to go on; '' if there are no more. Needs whole,
-- tell beside it.
local function give_turns(turns, lines, control, name, after, now_ms)
  local given = {}
  if after == '' and redis.call('ZSCORE', lines, name) then given[1] = name end
  local from = after == '' and '[' .. name .. ' ' or '(' .. after -- `!` is what comes after the space
  for _, bucket in ipairs(redis.call('ZRANGE', lines, from, '(' .. name .. '!', 'BYLEX', 'LIMIT', 0, 500)) do
    given[#given + 1] = bucket
  end
  for _, bucket in ipairs(given) do redis.call('ZADD', turns, 'LT', whole(now_ms), bucket) end
  if #given > 0 then tell(control, 'due ' .. whole(now_ms)) end
  return #given >= 500 and given[#given] or ''
end
