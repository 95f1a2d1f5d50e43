-- is_declared: whether a scheduler that is there declares a schedule, by what `schedule` knows of it: it did within a minute.
-- A time that is yet to come, as the clock was set back since, is of one that may be gone.
local function is_declared(known, now_ms)
  local seen_at = type(known) == 'table' and known.declared_by and tonumber(known.seen_at)
  return seen_at ~= nil and seen_at ~= false and math.abs(now_ms - seen_at) < 60000
end
