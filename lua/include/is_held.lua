-- is_held: 1 if a waiting job is held, else 0.
local function is_held(held, job)
  return redis.call('HGET', held, job) and 1 or 0
end
