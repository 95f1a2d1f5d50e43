-- free: give up a unique key, if this job is the one that holds it. One that is no string, by hand, it does not hold.
local function free(prefix, key, job)
  if (key or '') == '' then return end
  local holder = redis.pcall('GET', prefix .. key)
  if holder == job then
    redis.call('DEL', prefix .. key)
  elseif type(holder) == 'table' and holder.err and not string.find(holder.err, 'WRONGTYPE', 1, true) then
    error(holder)
  end
end
