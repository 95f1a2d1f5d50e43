#!lua flags=no-writes,allow-oom
-- limits: list the limits of job names, the jobs that run under them, and the waiting lines, in steps. Writes
-- nothing.
--
-- ARGV[1]  after         where to go on, as the last step said; '' to begin
-- Returns  {after, limits, lines, shares, others}: where to go on, '' at the end; then, for this step, three flat
--          lists. limits: job name, limit. lines: bucket, how many wait, when one may start in ms or ''. shares:
--          bucket, worker, job id. others: the streams, 1..3, with too many consumers for a script to
--          count; XPENDING counts them

--- @include streams has_many leases stream_of holder is_waiting entry_at bytes_of field
local part, after = string.match(ARGV[1], '^(%l+) (.*)$')

local function waiting_lines(last)
  local waiting, found, others = {}, {}, {}
  for number, stream in ipairs(streams) do
    if has_many(stream) then others[#others + 1] = number end
  end
  local most = #others > 0 and 2000 or 500 -- a client counts the jobs of many lines about as fast as of a few
  local page = redis.call('ZRANGE', KEYS.lines, last and '(' .. last or '-', '+', 'BYLEX', 'LIMIT', 0, most)
  for _, bucket in ipairs(page) do waiting['line:' .. bucket] = 0 end
  for _, stream in ipairs(#page > 0 and streams or {}) do -- count for all lines: Redis can't list only some
    for _, consumer in ipairs(not has_many(stream) and (leases(stream) or {})[4] or {}) do
      local many = waiting[consumer[1]]
      if many then waiting[consumer[1]] = many + tonumber(consumer[2]) end
    end
  end
  for _, bucket in ipairs(page) do
    local many = waiting['line:' .. bucket]
    if many > 0 or #others > 0 then
      for _, word in ipairs({bucket, many, redis.call('ZSCORE', KEYS.turns, bucket) or ''}) do
        found[#found + 1] = word
      end
    end
  end
  return found, #page == most and 'line ' .. page[most] or 'share 0', others
end

local function running(cursor)
  local page, found, bytes = redis.call('HSCAN', KEYS.shares, cursor, 'COUNT', 200), {}, 0
  for i = 1, #page[2], 2 do
    local place, entry = string.match(page[2][i], '^(%S+) (%d+%-%d+)$')
    local worker = stream_of[place] and holder(stream_of[place], entry)
    local id = not is_waiting(worker) and ''
    if id and bytes < 1048576 then -- the jobs may be large: after 1 MB the others have no id
      local fields = entry_at(stream_of[place], entry)
      bytes = bytes + bytes_of(fields or {})
      id = fields and field(fields, 'id') or ''
    end
    if id then found[#found + 1], found[#found + 2], found[#found + 3] = page[2][i + 1], worker, id end
  end
  return found, page[1] ~= '0' and 'share ' .. page[1] or ''
end

if part == 'share' then
  local found, left_off = running(after)
  return {left_off, {}, {}, found, {}}
end
local found, left_off, others = waiting_lines(part and after)
return {left_off, part and {} or redis.call('HGETALL', KEYS.limits), found, {}, others}
