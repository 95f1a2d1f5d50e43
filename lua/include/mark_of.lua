-- mark_of: the mark beside the locator of a ready entry's job, '' for none; nil if the entry is no job of ours. A locator
-- that was lost counts as one without a mark; then the second value is false.
local function mark_of(job, place, entry)
  if (job or '') == '' then return nil end
  local located = redis.call('HGET', KEYS.jobs, job)
  if not located then return '', false end
  local there, mark = string.match(located, '^(%S+ %S+) ?(%S*)$')
  return there == place .. ' ' .. entry and mark or nil, true
end
