-- expect: end the script, before anything is written, if one of these keys has another type.
local function expect(kind, ...)
  for _, key in ipairs({...}) do
    local there = redis.call('TYPE', key).ok
    if there ~= kind and there ~= 'none' then
      return error({err = 'WRONGTYPE ' .. key .. ' is a ' .. there .. ', it must be a ' .. kind
        .. '; nothing was written: rename it or delete it'})
    end
  end
end
