-- prospect: what a claim would find, as settle and claim say it: a sum of 1 if jobs were handed back, and then 32 or 64 if the
-- first are of the second or third stream; 2 if some jobs may not start, 4 if the queue is paused; and how many of each stream were never delivered, as ahead has them. Of a paused queue
-- nothing else is told: nobody claims there. Needs ahead beside it.
local function prospect(streams, restricted, large)
  if restricted and restricted.all then return 4, {0, 0, 0, 0, 0, 0} end
  local released, unread = ahead(streams, large)
  local finds = released > 0 and 1 + 32 * (released - 1) or 0
  return finds + (restricted and 2 or 0), unread
end
