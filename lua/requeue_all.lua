#!lua flags=allow-oom
-- requeue_all: give dead letters that a filter lets through another life, the newest first; a step, which takes up to 200, and
-- looks at 500 and at about 1 MB. The next goes on after the last that this one has looked at, so who dies anew meanwhile is not
-- taken again.
--
-- ARGV[1]  after         where the step before has left off; '' only asks where to begin
-- ARGV[2]  name          of the job; '': any
-- ARGV[3]  text          what its parameters or its error have in them, as it stands; '': any
-- ARGV[4]  fingerprint   of its failure; '': any
-- ARGV[5]  reason        of the dead letter; '': any
-- ARGV[6]  older_ms      int ms  since it died; '': any
-- ARGV[7]  wait_ms       ms      until the first of them may run; none, or less: now
-- ARGV[8]  pause_ms      ms      from one of them to the next
-- ARGV[9]  now_ms        int ms; '' = the server's clock
--
-- Returns  {after, id, ...}: where the next step goes on, '' where there is no more; and the ids of those that were requeued.
--          One that is too large, put in by hand, stays; so does each where the ready streams have no entry ids left

--- @include now expect streams letters requeuing

local now_ms, exact_ms = now(ARGV[9])
local older_ms, wait_ms, pause_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local wanted = {name = ARGV[2], text = ARGV[3], fingerprint = ARGV[4], reason = ARGV[5]}
wanted.until_ms = older_ms and now_ms - older_ms

expect('stream', streams[1], streams[2], streams[3], KEYS.dead)
expect('zset', KEYS.due)
expect('hash', KEYS.jobs, KEYS.delayed)

local found, after = letters(ARGV[1], wanted)
local add, write = requeuing(now_ms, exact_ms)
for _, letter in ipairs(found) do
  local due_at = wait_ms > 0 and math.ceil(exact_ms + wait_ms) or 0
  if add(KEYS.dead, letter[1], letter[3], letter[2], {}, due_at) then wait_ms = wait_ms + pause_ms end
end
return {after, unpack(write())}
