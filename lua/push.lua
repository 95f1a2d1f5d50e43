#!lua
-- push: put jobs on the queue, each id once. Refused whole when the server is out of memory.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed job ids by due time, ms
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  unique:       string  prefix; unique:<key> holds the id of the job that has the key
-- KEYS[8]  finished:     set     prefix; finished:<n> holds ids of jobs that ended in those 5 s
-- KEYS[9]  stats         hash    counters
-- KEYS[10] control       channel nudges
--
-- ARGV[1]  now_ms        int ms; '' = the server's clock
-- ARGV[2]  again         '1': ids may have been pushed before, so look among the finished too. That is done in any
--                        case for an id that tells no time, or another than now: a first push may come late,
--                        after the one that repeated it
-- ARGV[3..] for each job: id, priority, due ('' now, '+5000' in ms, or a time in ms), unique key ('' none),
--           unique_for (ms the key is kept; '' until the job ends), expires_in (ms; '' never),
--           number of field values, then the entry's names and values
--
-- Returns  one word for each job:
--          OK             on the queue
--          EXISTS         this id is on the queue, or ended lately; nothing was written
--          DUPLICATE <id> that job holds the unique key; nothing was written

--- @include "include/now"
--- @include "include/due_time"
--- @include "include/whole"
--- @include "include/delay"

local ready = {high = KEYS[1], normal = KEYS[2], low = KEYS[3]}
local jobs, due, delayed, unique, finished = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local stats, control = KEYS[9], KEYS[10]
local now_ms, exact_ms = now(ARGV[1])
local again = ARGV[2] == '1'
local first_job = 3

local slot = math.floor(now_ms / 5000) -- as remember counts

-- An id that redisjobs made begins with the producer's clock, in ms.
local function is_fresh(job)
  local made_ms = #job == 28 and tonumber(string.sub(job, 1, 12), 16)
  return made_ms and math.abs(now_ms - made_ms) < 2000
end

local function known(job)
  if redis.call('HEXISTS', jobs, job) == 1 then return true end
  if not again and is_fresh(job) then return false end
  for n = slot, slot - 12, -1 do
    if redis.call('SISMEMBER', finished .. whole(n), job) == 1 then return true end
  end
  return false
end

-- Before anything is written: where a key is no string, by hand, the script ends here.
local holders = {}
local at = first_job
while at <= #ARGV do
  local key = ARGV[at + 3]
  if key ~= '' then holders[key] = redis.call('GET', unique .. key) end
  at = at + 7 + tonumber(ARGV[at + 6])
end

local words, pushed, nudge = {}, 0, nil
at = first_job
while at <= #ARGV do
  local job, priority, due_at = ARGV[at], ARGV[at + 1], due_time(ARGV[at + 2], exact_ms)
  local key, unique_for, expires_in = ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local last = at + 6 + tonumber(ARGV[at + 6])
  local fields = {'id', job, unpack(ARGV, at + 7, last)}
  at = last + 1

  if known(job) then
    words[#words + 1] = 'EXISTS'
  elseif holders[key] then
    words[#words + 1] = 'DUPLICATE ' .. holders[key]
  else
    if expires_in ~= '' then
      fields[#fields + 1], fields[#fields + 2] = 'expires_at', whole(now_ms + tonumber(expires_in))
    end
    if key ~= '' then
      holders[key] = job
      if unique_for == '' then
        fields[#fields + 1], fields[#fields + 2] = 'unique', key
        redis.call('SET', unique .. key, job)
      else
        redis.call('SET', unique .. key, job, 'PX', unique_for)
      end
    end
    if due_at > now_ms then
      fields[#fields + 1], fields[#fields + 2] = 'queued_at', whole(now_ms)
      if delay(jobs, due, delayed, job, priority, fields, due_at) then nudge = due_at end
    else
      local entry = redis.call('XADD', ready[priority], '*', unpack(fields))
      redis.call('HSET', jobs, job, 'ready:' .. priority .. ' ' .. entry)
    end
    words[#words + 1] = 'OK'
    pushed = pushed + 1
  end
end

if pushed > 0 then redis.call('HINCRBY', stats, 'pushed', pushed) end
if nudge then redis.call('PUBLISH', control, 'due ' .. whole(nudge)) end
return words
