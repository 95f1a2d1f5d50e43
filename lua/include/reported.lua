-- reported: what a job last reported of its progress, as JSON; '' for nothing, or a key of another type.
local function reported(job)
  local said = redis.pcall('GET', KEYS['progress:'] .. job)
  return type(said) == 'string' and said or ''
end
