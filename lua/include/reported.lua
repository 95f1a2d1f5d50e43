-- reported: what a job has reported last of how far it is, as JSON; '' for nothing, or where the key has another type.
local function reported(keys, job)
  local said = redis.pcall('GET', keys.progress .. job)
  return type(said) == 'string' and said or ''
end
