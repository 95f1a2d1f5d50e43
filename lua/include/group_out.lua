-- group_out: take dead letters out of the groups of their kinds. `letters` has the entry and the fields of each.
--- @include kind_of padded
local function group_out(letters)
  local gone = {}
  for _, letter in ipairs(letters) do
    local kind = kind_of(letter[2])
    gone[kind] = gone[kind] or {}
    table.insert(gone[kind], padded(letter[1]))
  end
  for kind, entries in pairs(gone) do
    redis.pcall('ZREM', KEYS['group:'] .. kind, unpack(entries))
    if redis.call('TYPE', KEYS['group:'] .. kind).ok == 'none' then redis.pcall('ZREM', KEYS.groups, kind) end
  end
end
