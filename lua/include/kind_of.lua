-- kind_of: the kind of failure that a dead letter counts under: its fingerprint, or its reason if it has none.
--- @include field
local function kind_of(fields)
  local fingerprint = field(fields, 'fingerprint') or ''
  return fingerprint ~= '' and fingerprint or field(fields, 'reason') or ''
end
