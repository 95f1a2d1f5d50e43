#!lua flags=allow-oom
-- requeue_all: requeue the dead letters that match a filter, newest first, in steps. The next step begins after
-- the last letter that this one looked at, so no step takes a new dead letter.
--
-- ARGV[1]  after         where the step before stopped; '' only asks where to begin
-- ARGV[2]  name          of the job; '': any
-- ARGV[3]  text          part of its parameters or its error; '': any
-- ARGV[4]  fingerprint   of its failure; '': any
-- ARGV[5]  reason        of the dead letter; '': any
-- ARGV[6]  worker        that has it; for ended jobs and dead letters, that had it; '': any
-- ARGV[7]  older_ms      int ms  since it died; '': any
-- ARGV[8]  wait_ms       ms      until the first job may run; 0 or less: now
-- ARGV[9]  pause_ms      ms      between one job and the next
-- ARGV[10] now_ms        int ms; '' = the server's clock
-- Returns  {after, duplicates, id, ...}: where the next step begins, '' at the end; how many stay dead letters
--          because another job holds their unique key; and the ids of the requeued jobs. A job with too many
--          fields stays, too; all do if the ready streams have no entry ids left

--- @include now expect streams letters requeuing
local now_ms, exact_ms = now(ARGV[10])
local older_ms, wait_ms, pause_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local wanted = {name = ARGV[2], text = ARGV[3], fingerprint = ARGV[4], reason = ARGV[5], worker = ARGV[6]}
wanted.until_ms = older_ms and now_ms - older_ms

expect('stream', KEYS.dead, unpack(streams))
expect('zset', KEYS.due)
expect('hash', KEYS.jobs, KEYS.delayed)

local found, after = letters(ARGV[1], wanted)
local add, write = requeuing(now_ms, exact_ms)
local duplicates = 0
for _, letter in ipairs(found) do
  local due_at = wait_ms > 0 and math.ceil(exact_ms + wait_ms) or 0
  local refused = add(KEYS.dead, letter[1], letter[3], letter[2], {}, due_at)
  if not refused then wait_ms = wait_ms + pause_ms end
  if refused == 'duplicate' then duplicates = duplicates + 1 end
end
return {after, duplicates, unpack(write())}
