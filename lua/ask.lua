#!lua flags=allow-oom
-- ask: say how jobs stand, to a process that waits for them, and note that it does where they have not ended: whatever ends
-- one tells it then, and what it reports meanwhile is told too.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[6]  dead          stream  dead letters
-- KEYS[7]  result:       string  prefix; result:<id> is what the job's handler returned, JSON
-- KEYS[8]  outcome:      string  prefix; outcome:<id> is how the job has ended
-- KEYS[9]  progress:     string  prefix; progress:<id> is what the job has reported last, JSON
-- KEYS[10] waiters       hash    job id -> processes that wait for it, the newest last
--
-- ARGV[1]  process       who waits: by what its channel is called; '' = nothing is noted
-- ARGV[2]  most_bytes    int     of what is read of jobs, and answered about them; one that has more is answered alone
-- ARGV[3..] job ids
--
-- Returns  for each job a list of a word and what belongs to it:
--          PENDING    it has not ended: place; for how long its result is to be kept, ms, '0' for not at all, '' where the
--                     entry does not say
--          COMPLETED  it is done: its result, JSON
--          REFUSED    it is done, but what it returned could not be kept: why
--          DEAD       it is a dead letter, or was one that somebody has deleted: error, error type, traceback, reason
--          CANCELLED  it was cancelled
--          EXPIRED    it is done, and its result was kept until a while ago
--          NOT_KEPT   it is done, and no result was kept
--          NOT_FOUND  no such job, or it has ended, and nothing is known of it
--          LATER      not looked at, as what came before it is large: ask again
--          Last in each list but LATER is its progress, JSON or '': that of a job that has ended for a minute

--- @include "include/expect"
--- @include "include/field"
--- @include "include/bytes_of"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/locate"
--- @include "include/unpacked"
--- @include "include/stored"

local places = {high = KEYS[1], normal = KEYS[2], low = KEYS[3], dead = KEYS[6]}
local jobs, delayed, result, outcome, progress, waiters = KEYS[4], KEYS[5], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local process, most_bytes = ARGV[1], tonumber(ARGV[2])
local first_job = 3

expect('hash', jobs, waiters)
local bytes, pending = 0, {}

-- What somebody has made something else by hand is as if it were not there.
local function text_at(key)
  local text = redis.pcall('GET', key)
  return type(text) == 'string' and text or nil
end

-- Note that the process waits. A job for which many do tells the newest of them, as many as have 2,400 bytes of names, some 100;
-- the others ask once a minute. The names are not taken apart: 500 jobs may have as many each.
local function note(id, names)
  local first, last = string.find(names, process, 1, true)
  local before, behind = string.byte(names, (first or 1) - 1) or 32, string.byte(names, (last or 0) + 1) or 32
  if first and before == 32 and behind == 32 then return end
  local from = #names + #process - 2399
  if from > 0 then names = string.sub(names, (string.find(names, ' ', from, true) or #names) + 1) end
  redis.call('HSET', waiters, id, names == '' and process or names .. ' ' .. process)
end

local function ended(id, place)
  local said = text_at(outcome .. id)
  if not said then return {place == 'completed' and 'NOT_KEPT' or place == 'cancelled' and 'CANCELLED' or 'NOT_FOUND'} end
  local word, text = string.match(said, '^(%S+) ?(.*)$')
  if word == 'cancelled' then return {'CANCELLED'} end
  if word == 'refused' then return {'REFUSED', text} end
  if word == 'dead' then
    local error_type, error = string.match(text, '^(%S*) (.*)$')
    return {'DEAD', error or text, error_type or '', '', ''}
  end
  local value = text_at(result .. id)
  return value and {'COMPLETED', value} or {'EXPIRED'}
end

local function standing(job)
  local place, entry, _, id = locate(places, jobs, job)
  local fields = place and stored(places, delayed, id, place .. ' ' .. entry)
  if not fields then return ended(id or job, place), id or job end
  bytes = bytes + bytes_of(fields)
  if place == 'dead' then
    local said = {'DEAD'}
    for i, name in ipairs({'error', 'error_type', 'traceback', 'reason'}) do said[i + 1] = field(fields, name) or '' end
    return said, id
  end
  pending[#pending + 1] = id
  return {'PENDING', place, field(fields, 'keep_result') or ''}, id
end

local answers = {}
for i = first_job, #ARGV do
  local said = {'LATER'}
  if bytes < most_bytes then
    local id
    said, id = standing(ARGV[i])
    said[#said + 1] = text_at(progress .. id) or ''
    for _, text in ipairs(said) do bytes = bytes + #text end
  end
  answers[#answers + 1] = said
end
-- Last, when all is read.
if process ~= '' and #pending > 0 then
  for i, names in ipairs(redis.call('HMGET', waiters, unpack(pending))) do note(pending[i], names or '') end
  redis.call('PEXPIRE', waiters, 86400000)
end
return answers
