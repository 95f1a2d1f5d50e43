-- holder: which consumer has this entry pending, and by which delivery; nil: nobody (also before the
-- group was made, which the first worker does).
local function holder(stream, entry)
  local pending = redis.pcall('XPENDING', stream, 'workers', entry, entry, 1)
  if pending.err or not pending[1] then return nil end
  return pending[1][2], pending[1][4]
end
