#!lua
-- signal: send a signal to a job. If the job waits for it, the job becomes ready. Otherwise the signal is kept
-- until the job waits for it.
--
-- ARGV[1]  job           job id
-- ARGV[2]  name          of the signal
-- ARGV[3]  value         JSON
-- ARGV[4]  nonce         tells it from other signals
-- ARGV[5]  most          int     number of signals that a job may keep
-- ARGV[6]  most_bytes    int     bytes of all signals that it keeps
-- ARGV[7]  now_ms        int ms; '' = the server's clock
-- Returns  OK         the job waited for it, and is ready; or this signal was taken before, within the last minute
--          KEPT       it is kept
--          EXISTS     the job keeps a signal of this name; nothing was written
--          DEAD       it is a dead letter; nothing was written
--          NOT_FOUND  no such job, or it ended; nothing was written
--          OVERSIZED  the job keeps too many signals, or too many bytes; nothing was written

--- @include now locate stored expect streams slot recent_ends remember signals_of keep_signals field wake member
local job, name, value, nonce = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, most_bytes, now_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), now(ARGV[7])

expect('hash', KEYS.jobs, KEYS.delayed, KEYS.signals, KEYS['steps:'] .. job)
expect('zset', KEYS.suspended)
expect('stream', unpack(streams))
expect('set', slot(now_ms))
local push = 'signal ' .. nonce
local _, taken = recent_ends(now_ms, now_ms, now_ms, push)
if taken then return 'OK' end
local place, entry, mark = locate(job)
if not place or place == 'completed' or place == 'cancelled' then return 'NOT_FOUND' end
if place == 'dead' then return 'DEAD' end
local fields = stored(job, place .. ' ' .. entry)
if not fields then return 'NOT_FOUND' end

local waits = mark == 'suspended' and string.match(field(fields, 'waits') or '', '^%d+ signal ([^# ]+)')
if waits == name then
  if not wake(job, member(entry, job), redis.call('HGET', KEYS.delayed, job), 'signal', value, now_ms) then
    return error({err =
      'ERR the job can not be made ready; nothing was written: check its stream, and its value in `delayed`'})
  end
  remember({push}, now_ms)
  return 'OK'
end
local signals, bytes = signals_of(job)
if field(signals, name) then return 'EXISTS' end
if #signals >= 2 * most or bytes + #value > most_bytes then return 'OVERSIZED' end
signals[#signals + 1], signals[#signals + 2] = name, value
remember({push}, now_ms)
keep_signals(job, signals)
return 'KEPT'
