-- locate: where a job is: its place (`ready:normal`, `delayed`, `dead`), the entry there, and whether a
-- cancel was asked for. A job put in by hand has no locator: its id is its entry id. Nil: nowhere.
local function locate(ready, jobs, job)
  local located = redis.call('HGET', jobs, job)
  if located then return string.match(located, '^(%S+) ?(%S*) ?(%S*)$') end
  if not string.match(job, '^%d+%-%d+$') then return nil end
  for place, stream in pairs(ready) do
    local found = redis.call('XRANGE', stream, job, job)[1]
    local own = found and found[1] == job -- written as the worker will know it, not `01732-0`
    for i = 1, own and #found[2] or 0, 2 do
      if found[2][i] == 'id' then own = found[2][i + 1] == job end
    end
    if own then return place, job, '' end
  end
  return nil
end
