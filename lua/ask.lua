#!lua flags=allow-oom
-- ask: return the states of jobs to a process that waits for them. For a job that has not ended, note the process:
-- it gets a notification when the job ends or reports progress.
--
-- ARGV[1]  process       the name of its channel; '' = note nothing
-- ARGV[2]  most_bytes    int     look at no further job once this much was read or is to be returned
-- ARGV[3..] job ids
-- Returns  for each job a list: a word, the values named here, and (not after LATER) its progress, JSON or '':
--          PENDING    it has not ended: place; how long to keep its result, ms; '0' not at all, '' unknown
--          COMPLETED  it is done: its result, JSON
--          REFUSED    it is done, but its result could not be kept: why
--          DEAD       it is a dead letter, or was one that was deleted: error, error type, traceback, reason
--          CANCELLED  it was cancelled
--          EXPIRED    it is done, and its result has expired
--          NOT_KEPT   it is done, and no result was kept
--          NOT_FOUND  no such job, or it has ended and left nothing
--          LATER      not looked at, because the jobs before it are large: ask again

--- @include expect locate stored bytes_of field
local process, most_bytes = ARGV[1], tonumber(ARGV[2])
local first_job = 3

expect('hash', KEYS.jobs, KEYS.waiters)
local bytes, pending = 0, {}

-- A key of another type counts as missing.
local function text_at(key)
  local text = redis.pcall('GET', key)
  return type(text) == 'string' and text or nil
end

-- Note that the process waits. A job keeps the newest 2,400 bytes of names, about 100 processes. Other processes
-- ask once a minute. The names are not split, because each of 500 jobs may have that many.
local function note(id, names)
  local first, last = string.find(names, process, 1, true)
  local before, behind = string.byte(names, (first or 1) - 1) or 32, string.byte(names, (last or 0) + 1) or 32
  if first and before == 32 and behind == 32 then return end
  local from = #names + #process - 2399
  if from > 0 then names = string.sub(names, (string.find(names, ' ', from, true) or #names) + 1) end
  redis.call('HSET', KEYS.waiters, id, names == '' and process or names .. ' ' .. process)
end

local function ended(id, place)
  local said = text_at(KEYS['outcome:'] .. id)
  if not said then
    return {place == 'completed' and 'NOT_KEPT' or place == 'cancelled' and 'CANCELLED' or 'NOT_FOUND'}
  end
  local word, text = string.match(said, '^(%S+) ?(.*)$')
  if word == 'cancelled' then return {'CANCELLED'} end
  if word == 'refused' then return {'REFUSED', text} end
  if word == 'dead' then
    local error_type, error = string.match(text, '^(%S*) (.*)$')
    return {'DEAD', error or text, error_type or '', '', ''}
  end
  local value = text_at(KEYS['result:'] .. id)
  return value and {'COMPLETED', value} or {'EXPIRED'}
end

local function standing(job)
  local place, entry, mark = locate(job)
  local fields = place and stored(job, place .. ' ' .. entry)
  if not fields then return ended(job, place) end
  bytes = bytes + bytes_of(fields)
  if place == 'dead' then
    local said = {'DEAD'}
    for i, name in ipairs({'error', 'error_type', 'traceback', 'reason'}) do
      said[i + 1] = field(fields, name) or ''
    end
    return said
  end
  pending[#pending + 1] = job
  return {'PENDING', mark == 'suspended' and mark or place, field(fields, 'keep_result') or ''}
end

local answers = {}
for i = first_job, #ARGV do
  local said = {'LATER'}
  if bytes < most_bytes then
    said = standing(ARGV[i])
    said[#said + 1] = text_at(KEYS['progress:'] .. ARGV[i]) or ''
    for _, text in ipairs(said) do bytes = bytes + #text end
  end
  answers[#answers + 1] = said
end
-- The first write; all reads came before.
if process ~= '' and #pending > 0 then
  for i, names in ipairs(redis.call('HMGET', KEYS.waiters, unpack(pending))) do note(pending[i], names or '') end
  redis.call('PEXPIRE', KEYS.waiters, 86400000)
end
return answers
