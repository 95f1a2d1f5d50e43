-- page: the number of entries to read at once, so that a step reads about 1 MB and at most 500 entries, if the
-- next entries are as large as the ones before. At most ten, because large ones may follow small ones. 0: the step
-- has read enough.
local function page(looked, bytes)
  if looked >= 500 or bytes >= 1048576 then return 0 end
  if looked == 0 then return 1 end
  local fit = math.floor((1048576 - bytes) * looked / math.max(1, bytes))
  return math.max(1, math.min(10, 500 - looked, fit))
end
