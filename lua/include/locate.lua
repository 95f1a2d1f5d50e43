-- locate: where a job is, by its locator: its place (`normal`, `delayed`, `dead`), the entry there, and the mark beside
-- it, '' for none; nil: nowhere.
local function locate(job)
  local located = redis.call('HGET', KEYS.jobs, job)
  if located then return string.match(located, '^(%S+) ?(%S*) ?(%S*)$') end
  return nil
end
