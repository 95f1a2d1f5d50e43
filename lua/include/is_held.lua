-- is_held: 1 if a waiting job is held, else 0; also where `held` is no hash.
local function is_held(held, job)
  return type(redis.pcall('HGET', held, job)) == 'string' and 1 or 0
end
