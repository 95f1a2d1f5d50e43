#!lua flags=allow-oom
-- release_all: hand back whatever a worker holds beyond the entries it names: jobs delivered into a reply it
-- never saw, or, with none named, all it has. As release does: at once, in their place.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  stats         hash    counters
-- KEYS[5]  control       channel notifications
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  refund        '1': the deliveries did not count (nothing ran); '0': they did (the worker died)
-- ARGV[3..] entries the worker does hold, as `1 1732-0`: stream 1..3, entry
--
-- Returns  how many were released; some 500 a stream and call, so call again while there are any

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/count"
--- @include "include/tell"

local streams, stats, control = {KEYS[1], KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local worker, refund = ARGV[1], tonumber(ARGV[2])
local first_held = 3

local held, most = {}, 500 + #ARGV - first_held + 1 -- to look at: those it does hold may come first
for at = first_held, #ARGV do held[ARGV[at]] = true end

expect('stream', streams[1], streams[2], streams[3])
local released = 0
for number, stream in ipairs(streams) do
  local from, seen = '-', 0
  -- Pages, for the worker may hold more than one page of jobs that are all in order.
  repeat
    local page = leases(stream, from, '+', 100, worker) or {}
    for _, pending in ipairs(page) do
      local entry = pending[1]
      from, seen = '(' .. entry, seen + 1
      if not held[number .. ' ' .. entry] then
        redis.call('XCLAIM', stream, 'workers', 'released', 0, entry,
          'RETRYCOUNT', math.max(0, pending[4] - refund), 'JUSTID')
        released = released + 1
      end
    end
  until #page < 100 or seen >= most
end

if released > 0 then
  count(stats, 'released', released)
  tell(control, 'released ' .. released)
end
return released
