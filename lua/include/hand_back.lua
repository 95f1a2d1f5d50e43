-- hand_back: pass up to `most` of a consumer's entries to the consumer `released`, from which claim takes before it reads
-- anything new: at once, in their place, and each delivery counted. Returns how many there were. Needs leases, unlocate
-- beside it.
local function hand_back(streams, jobs, worker, most)
  local total = 0
  for _, stream in ipairs(streams) do
    local page = most > total and leases(stream, '-', '+', most - total, worker) or {}
    local entries = {}
    for i, pending in ipairs(page) do entries[i] = pending[1] end
    if #entries > 0 then
      entries[#entries + 1] = 'JUSTID'
      local passed = redis.call('XCLAIM', stream, 'workers', 'released', 0, unpack(entries))
      if #passed < #page then -- some were removed by hand while they were leased: the server forgets such
        local there = {}
        for _, entry in ipairs(passed) do there[entry] = true end
        for _, pending in ipairs(page) do
          if not there[pending[1]] then unlocate(jobs, stream, pending[1]) end
        end
      end
      total = total + #page
    end
  end
  return total
end
