-- passes: whether a job matches a filter. `wanted` has name, text, fingerprint (a kind of failure), reason and
-- worker, '' for any, and until_ms, nil for any: the latest `since_ms` that matches.
--- @include field kind_of
local function passes(wanted, fields, since_ms)
  if wanted.name ~= '' and field(fields, 'name') ~= wanted.name then return false end
  if wanted.fingerprint ~= '' and kind_of(fields) ~= wanted.fingerprint then return false end
  if wanted.reason ~= '' and field(fields, 'reason') ~= wanted.reason then return false end
  if wanted.worker ~= '' and field(fields, 'worker') ~= wanted.worker then return false end
  if wanted.until_ms and since_ms > wanted.until_ms then return false end
  if wanted.text == '' then return true end
  for _, name in ipairs({'parameters', 'error'}) do
    if string.find(field(fields, name) or '', wanted.text, 1, true) then return true end
  end
  return false
end
