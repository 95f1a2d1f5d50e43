-- owns_all: whether a worker holds these entries of a stream, each by its first delivery, and their locators
-- confirm it without a mark.
--- @include leases
local function owns_all(worker, stream, entries, ids)
  -- Compare all places as one text, which takes a tenth of the time.
  local place, located = string.match(stream, '[^:]+$') .. ' ', redis.call('HMGET', KEYS.jobs, unpack(ids))
  local are_texts, text = pcall(table.concat, located, ',')
  if not are_texts or text ~= place .. table.concat(entries, ',' .. place) then return false end
  -- The entries are usually neighbours. If too many other entries are between them, ask for them one by one.
  local deliveries = {}
  for _, pending in ipairs(leases(stream, entries[1], entries[#entries], 2 * #entries, worker) or {}) do
    deliveries[pending[1]] = pending[4]
  end
  for _, entry in ipairs(entries) do
    local delivered = deliveries[entry] or ((leases(stream, entry, entry, 1, worker) or {})[1] or {})[4]
    if delivered ~= 1 then return false end
  end
  return true
end
