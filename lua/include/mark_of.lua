-- mark_of: the mark in the locator of a ready entry's job, or ''; nil if no push has added the entry. A lost
-- locator counts as one without a mark; then the second value is false.
local function mark_of(job, place, entry)
  if (job or '') == '' then return nil end
  local located = redis.call('HGET', KEYS.jobs, job)
  if not located then return '', false end
  local there, mark = string.match(located, '^(%S+ %S+) ?(%S*)$')
  return there == place .. ' ' .. entry and mark or nil, true
end
