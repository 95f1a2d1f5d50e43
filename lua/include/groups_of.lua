-- groups_of: the tokens of the groups of children that a job has, as a list.
local function groups_of(job)
  local known, tokens = redis.pcall('HGET', KEYS['steps:'] .. job, 'child groups'), {}
  for token in string.gmatch(type(known) == 'string' and known or '', '%S+') do tokens[#tokens + 1] = token end
  return tokens
end
