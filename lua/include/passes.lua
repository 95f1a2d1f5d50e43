-- passes: whether a job matches a filter. `wanted` has name, text, fingerprint and reason, '' for any, and until_ms, nil for
-- any: the latest `since_ms` that matches.
--- @include field
local function passes(wanted, fields, since_ms)
  if wanted.name ~= '' and field(fields, 'name') ~= wanted.name then return false end
  if wanted.fingerprint ~= '' and field(fields, 'fingerprint') ~= wanted.fingerprint then return false end
  if wanted.reason ~= '' and field(fields, 'reason') ~= wanted.reason then return false end
  if wanted.until_ms and since_ms > wanted.until_ms then return false end
  if wanted.text == '' then return true end
  for _, name in ipairs({'parameters', 'error'}) do
    if string.find(field(fields, name) or '', wanted.text, 1, true) then return true end
  end
  return false
end
