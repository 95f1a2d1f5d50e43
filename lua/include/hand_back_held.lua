-- hand_back_held: hand back up to `most` entries that a consumer holds, and free their shares. `refund` is 1 if
-- the last delivery of each does not count, else 0. `one` is a line for their histories, or nil. Returns the
-- number of entries.
--- @include streams leases hand_back give_up note_event
local function hand_back_held(worker, most, refund, now_ms, one)
  local total = 0
  for _, stream in ipairs(streams) do
    local priority = string.match(stream, '[^:]+$')
    local page = most > total and leases(stream, '-', '+', most - total, worker) or {}
    local delivered, located, there = {}, {}, {} -- by deliveries: one command passes all entries with one count
    for i, pending in ipairs(page) do
      local entries = delivered[pending[4]] or {}
      delivered[pending[4]] = entries
      entries[#entries + 1] = pending[1]
      located[i] = priority .. ' ' .. pending[1]
    end
    for deliveries, entries in pairs(delivered) do
      for _, entry in ipairs(hand_back(stream, math.max(0, deliveries - refund), entries)) do
        there[#there + 1] = priority .. ' ' .. entry
      end
    end
    if one then note_event(there, one) end
    give_up(located, now_ms, refund > 0)
    total = total + #page
  end
  return total
end
