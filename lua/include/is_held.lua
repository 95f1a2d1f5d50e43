-- is_held: 1 if a waiting job is held, else 0; also if `held` is no hash.
local function is_held(job)
  return type(redis.pcall('HGET', KEYS.held, job)) == 'string' and 1 or 0
end
