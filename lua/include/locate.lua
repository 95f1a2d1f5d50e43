-- locate: the place of a job, by its locator (`normal`, `delayed`, `dead`), the entry there, and the mark after
-- it, or ''; nil if there is no locator.
local function locate(job)
  local located = redis.call('HGET', KEYS.jobs, job)
  if located then return string.match(located, '^(%S+) ?(%S*) ?(%S*)$') end
  return nil
end
