-- free: give up a unique key, if this job is the one that holds it.
local function free(prefix, key, job)
  if key and key ~= '' and redis.call('GET', prefix .. key) == job then
    redis.call('DEL', prefix .. key)
  end
end
