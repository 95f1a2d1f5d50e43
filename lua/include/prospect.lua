-- prospect: what a claim would find, as settle and claim say it: a sum of 1 if jobs were handed back, 2 if some jobs may not
-- start, 4 if the queue is paused; and how many of each stream were never delivered, as ahead has them. Of a paused queue
-- nothing else is told: nobody claims there. Needs ahead beside it.
local function prospect(streams, restricted, large)
  if restricted and restricted.all then return 4, {0, 0, 0, 0, 0, 0} end
  local released, unread = ahead(streams, large)
  return released + (restricted and 2 or 0), unread
end
