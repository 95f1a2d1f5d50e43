-- with_steps: the fields of an entry, with the note that its job has saved steps, if it has: its entry may be older than they are.
-- (TYPE, because some roles may not run EXISTS.)
--- @include field
local function with_steps(job, fields)
  if not field(fields, 'steps') and redis.call('TYPE', KEYS['steps:'] .. job).ok ~= 'none' then
    fields[#fields + 1], fields[#fields + 2] = 'steps', '1'
  end
  return fields
end
