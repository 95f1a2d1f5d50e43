-- expect: end the script, before anything is written, if one of these keys has another type. Returns whether any
-- of them exists.
local function expect(kind, ...)
  local is_there = false
  for _, key in ipairs({...}) do
    local there = redis.call('TYPE', key).ok
    if there ~= kind and there ~= 'none' then
      return error({err = 'WRONGTYPE ' .. key .. ' is a ' .. there .. ', it must be a ' .. kind
        .. '; nothing was written: rename it or delete it'})
    end
    is_there = is_there or there == kind
  end
  return is_there
end
