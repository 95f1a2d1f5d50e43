-- hand_back_held: hand back up to `most` of the entries that a consumer holds; their shares of limits go. `refund` is how many
-- deliveries of each do not count: 0 or 1. `keys` has streams, jobs, and what give_up takes. Returns how many entries there
-- were. Needs leases, unlocate, hand_back, give_up beside it.
local function hand_back_held(keys, worker, most, refund, now_ms)
  local total = 0
  for _, stream in ipairs(keys.streams) do
    local page = most > total and leases(stream, '-', '+', most - total, worker) or {}
    local delivered, places = {}, {} -- by how often: all of one count are passed at once
    for i, pending in ipairs(page) do
      local entries = delivered[pending[4]] or {}
      delivered[pending[4]] = entries
      entries[#entries + 1] = pending[1]
      places[i] = string.match(stream, '[^:]+$') .. ' ' .. pending[1]
    end
    for deliveries, entries in pairs(delivered) do
      local there = {}
      for _, entry in ipairs(hand_back(stream, math.max(0, deliveries - refund), entries)) do there[entry] = true end
      for _, entry in ipairs(entries) do
        if not there[entry] then unlocate(keys.jobs, stream, entry) end -- removed by hand while it was leased
      end
    end
    give_up(keys, places, now_ms, refund > 0)
    total = total + #page
  end
  return total
end
