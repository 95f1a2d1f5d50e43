-- goes_on: whether a job that may start has started before, and continues after a wait. Its entry has the time
-- since when it waited, until a run ends otherwise than by another wait.
--- @include field
local function goes_on(fields)
  return field(fields, 'suspended_at') ~= nil
end
