-- forget_steps: forget what jobs have saved, because they have ended or are deleted. 1,000 ids at most.
local function forget_steps(ids)
  local steps = {}
  for i, id in ipairs(ids) do steps[i] = KEYS['steps:'] .. id end
  local gone = redis.pcall('UNLINK', unpack(steps)) -- in the background: they may be large
  if type(gone) == 'table' then redis.call('DEL', unpack(steps)) end -- without the permission for it
end
