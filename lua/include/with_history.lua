-- with_history: a flat list of fields, and the job's history if there is any; see history.
--- @include history
local function with_history(list, fields, place, one)
  local text = history(fields, place, one)
  if text == '' then return list end
  return {'history', text, unpack(list)}
end
