-- give_turns: give a turn to up to 500 waiting lines of a job name, alphabetically after `after` ('' begins), and
-- publish it. Returns where to go on; '' at the end.
--- @include whole tell
local function give_turns(name, after, now_ms)
  local given = {}
  if after == '' and redis.call('ZSCORE', KEYS.lines, name) then given[1] = name end
  local from = after == '' and '[' .. name .. ' ' or '(' .. after -- `!` comes right after the space
  for _, bucket in ipairs(redis.call('ZRANGE', KEYS.lines, from, '(' .. name .. '!', 'BYLEX', 'LIMIT', 0, 500)) do
    given[#given + 1] = bucket
  end
  for _, bucket in ipairs(given) do redis.call('ZADD', KEYS.turns, 'LT', whole(now_ms), bucket) end
  if #given > 0 then tell('due ' .. whole(now_ms)) end
  return #given >= 500 and given[#given] or ''
end
