-- free: delete a unique key if this job holds it. No job holds a key of another type.
local function free(key, job)
  if (key or '') == '' then return end
  local holder = redis.pcall('GET', KEYS['unique:'] .. key)
  if holder == job then
    redis.call('DEL', KEYS['unique:'] .. key)
  elseif type(holder) == 'table' and holder.err and not string.find(holder.err, 'WRONGTYPE', 1, true) then
    error(holder)
  end
end
