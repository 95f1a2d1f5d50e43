-- suspects: two functions. The first tells of a job about to be handed out whether it is for another worker. Such
-- is one that is handed out for the last time, if this worker has one like it already: it may be what killed its
-- workers, and one that kills again would take its like along, dead letters all. The second is told whether the
-- job was handed out then. Entries in `besides` (stream .. entry -> true) are not this worker's yet. Needs leases
-- beside it.
local function suspects(streams, worker, max_deliveries, besides)
  local has_one

  local function look()
    for _, stream in ipairs(streams) do
      for _, pending in ipairs(leases(stream, '-', '+', 500, worker) or {}) do
        if pending[4] >= max_deliveries and not besides[stream .. pending[1]] then return true end
      end
    end
    return false
  end

  local function is_for_others(deliveries)
    if max_deliveries == 1 or deliveries ~= max_deliveries then return false end
    if has_one == nil then has_one = look() end
    return has_one
  end

  local function note(deliveries, handed_out)
    if not handed_out then
      has_one = nil -- what we had may be what was ended
    elseif deliveries == max_deliveries then
      has_one = true
    end
  end

  return is_for_others, note
end
