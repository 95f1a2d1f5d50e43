-- with_steps: the fields of an entry, with a note if its job has saved steps. The entry may be older than the
-- steps.
--- @include field
local function with_steps(job, fields)
  local many = field(fields, 'steps') and 0 or redis.pcall('HLEN', KEYS['steps:'] .. job)
  if type(many) == 'number' and many > 0 then
    fields[#fields + 1], fields[#fields + 2] = 'steps', '1'
  end
  return fields
end
