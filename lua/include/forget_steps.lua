-- forget_steps: forget the saved steps of jobs that have ended or are deleted, and the groups of their children.
-- With `cancels`, children that have not ended are cancelled, and their groups stay until then. 500 ids at most.
--- @include groups_of cancel_group
local function forget_steps(ids, now_ms, cancels)
  local gone = {}
  for _, id in ipairs(ids) do
    for _, token in ipairs(groups_of(id)) do
      if not (cancels and cancel_group(token, true, now_ms)) then gone[#gone + 1] = KEYS['children:'] .. token end
    end
    gone[#gone + 1] = KEYS['steps:'] .. id
  end
  for first = 1, #gone, 1000 do
    local some = {unpack(gone, first, math.min(first + 999, #gone))}
    local unlinked = redis.pcall('UNLINK', unpack(some)) -- in the background: they may be large
    if type(unlinked) == 'table' then redis.call('DEL', unpack(some)) end -- without the permission for it
  end
end
