-- prospect: what a claim would find, as settle and claim answer it. A sum: 1 if jobs were handed back, and 32 or 64
-- more if the first are of the second or third stream, or if there is something in the inbox; 2 if some jobs may not start; 4 if the queue is paused, and then
-- nothing else, as no worker claims there. Then the unread jobs, as ahead returns them.
--- @include ahead
local function prospect(restricted)
  if restricted and restricted.all then return 4, {0, 0, 0, 0, 0, 0} end
  local released, unread = ahead()
  if redis.pcall('XLEN', KEYS.inbox) ~= 0 then released = 1 end
  local finds = released > 0 and 1 + 32 * (released - 1) or 0
  return finds + (restricted and 2 or 0), unread
end
