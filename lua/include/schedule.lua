-- schedule: what is known of a schedule, by field, but for what it pushes; nil if it is none; 'SPOILED' where somebody has
-- put something else in its place, or made one of its times none. Its `last_slot` is the one that was seen to last, ms.
local function schedule(prefix, name)
  local kind = redis.call('TYPE', prefix .. name).ok
  if kind == 'none' then return nil end
  if kind ~= 'hash' then return 'SPOILED' end
  local fields = {'fingerprint', 'rule', 'last_slot', 'declared_by', 'release', 'paused', 'missed', 'fired_slot', 'fired_by'}
  local known = {}
  for i, value in ipairs(redis.call('HMGET', prefix .. name, unpack(fields))) do known[fields[i]] = value or nil end
  for _, time in ipairs({known.last_slot or '', known.declared_by or '0'}) do
    if not string.match(time, '^%d+$') or #time > 15 then return 'SPOILED' end
  end
  return known.fingerprint and known or 'SPOILED'
end
