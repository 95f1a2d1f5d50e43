-- signals_of: the signals that a job keeps until it waits for them, as a flat list of names and values; and the
-- bytes of all.
local function signals_of(job)
  local packed = redis.call('HGET', KEYS.signals, job)
  local is_readable, list = pcall(cjson.decode, packed or '[]') -- a list of strings
  return is_readable and type(list) == 'table' and list or {}, #(packed or '')
end
