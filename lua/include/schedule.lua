-- schedule: the fields of a schedule, except the fields of its job; nil if there is no such schedule; 'SPOILED' if
-- the key is of another type, or has a time that is no number.
local function schedule(name)
  local key = KEYS['schedule:'] .. name
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return nil end
  if kind ~= 'hash' then return 'SPOILED' end
  local fields = {'fingerprint', 'rule', 'last_slot', 'declared_by', 'release', 'paused', 'missed', 'fired_slot',
    'fired_by', 'moved_to'}
  local known = {}
  for i, value in ipairs(redis.call('HMGET', key, unpack(fields))) do known[fields[i]] = value or nil end
  for _, time in ipairs({known.last_slot or '', known.declared_by or '0'}) do
    if not string.match(time, '^%d+$') or #time > 15 then return 'SPOILED' end
  end
  return known.fingerprint and known or 'SPOILED'
end
