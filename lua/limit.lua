#!lua flags=allow-oom
-- limit: set or remove the limit of a job name. Count its running jobs: up to 500, and none after the first 4 MB.
-- Give its waiting lines a turn.
--
-- ARGV[1]  name          job name
-- ARGV[2]  limit         in the words of the hash; '' removes it
-- ARGV[3]  after         where to go on with the lines, as the last step said; '' to begin
-- ARGV[4]  now_ms        int ms; '' = the server's clock
-- Returns  where to go on: 500 lines get a turn in one step; '' at the end, and if the limit does not change

--- @include now expect streams entry_at bytes_of field whole leases give_turns
local name, limit, after, now_ms = ARGV[1], ARGV[2], ARGV[3], now(ARGV[4])

expect('stream', unpack(streams))
expect('hash', KEYS.limits, KEYS.shares)
expect('zset', KEYS.workers, KEYS.turns, KEYS.lines)
local before = redis.call('HGET', KEYS.limits, name) or ''
if after == '' and before == limit then return '' end

local bytes = 0
local function count_one(stream, entry)
  if bytes >= 4194304 then return end
  local place, fields = string.match(stream, '[^:]+$') .. ' ' .. entry, entry_at(stream, entry)
  bytes = bytes + bytes_of(fields or {})
  if not fields or field(fields, 'name') ~= name or redis.call('HGET', KEYS.shares, place) then return end
  local key = field(fields, 'limit_key') or ''
  local bucket = key == '' and name or name .. ' ' .. key
  redis.call('HSET', KEYS.shares, place, bucket)
  redis.pcall('ZADD', KEYS['holders:'] .. bucket, whole(now_ms), place)
end

local function count_running()
  local looked = 0
  for _, worker in ipairs(redis.call('ZRANGE', KEYS.workers, 0, 499)) do
    for _, stream in ipairs(streams) do
      local page = looked < 500 and leases(stream, '-', '+', 500 - looked, worker) or {}
      for _, pending in ipairs(page) do count_one(stream, pending[1]) end
      looked = looked + #page
    end
  end
end

if after == '' then
  if limit == '' then
    redis.call('HDEL', KEYS.limits, name)
  else
    redis.call('HSET', KEYS.limits, name, limit)
    if before == '' then count_running() end
  end
end
return give_turns(name, after, now_ms)
