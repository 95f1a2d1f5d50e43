#!lua flags=allow-oom
-- delete_all: delete the dead letters that match a filter, newest first. It works in steps, like requeue_all.
--
-- ARGV[1]  after         where the step before stopped; '' only asks where to begin
-- ARGV[2]  name          of the job; '': any
-- ARGV[3]  text          part of its parameters or its error; '': any
-- ARGV[4]  fingerprint   of its failure; '': any
-- ARGV[5]  reason        of the dead letter; '': any
-- ARGV[6]  worker        that has it; for ended jobs and dead letters, that had it; '': any
-- ARGV[7]  older_ms      int ms  since it died; '': any
-- ARGV[8]  now_ms        int ms; '' = the server's clock
-- Returns  {after, id, ...}: where the next step begins, '' at the end; and the ids that were deleted

--- @include now expect slot letters push_of field finish group_out forget_steps
local older_ms, now_ms = tonumber(ARGV[7]), now(ARGV[8])
local wanted = {name = ARGV[2], text = ARGV[3], fingerprint = ARGV[4], reason = ARGV[5], worker = ARGV[6]}
wanted.until_ms = older_ms and now_ms - older_ms

expect('stream', KEYS.dead)
expect('hash', KEYS.jobs)
expect('set', slot(now_ms))

local found, after = letters(ARGV[1], wanted)
local entries, ids, pushes = {}, {}, {}
for i, letter in ipairs(found) do
  entries[i], ids[i], pushes[i] = letter[1], letter[3], push_of(letter[3], field(letter[2], 'nonce'))
end
if #ids > 0 then
  finish('deleted', {[KEYS.dead] = entries}, ids, {}, pushes, now_ms) -- no dead letter holds a unique key
  group_out(found)
  forget_steps(ids, now_ms)
end
return {after, unpack(ids)}
