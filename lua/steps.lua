#!lua flags=no-writes,allow-oom
-- steps: return the saved steps of jobs. Writes nothing.
--
-- ARGV[1]  most_bytes    int     stop looking at jobs once the answer has this many bytes
-- ARGV[2..] job ids
-- Returns  for each job {name, value, ...} of its saved steps, see `steps:<id>` in the README; or {word}:
--          LATER  not looked at, because the steps of the jobs before it are large: ask again

--- @include bytes_of
local most_bytes, answers, bytes = tonumber(ARGV[1]), {}, 0
local first_job = 2
for at = first_job, #ARGV do
  if bytes < most_bytes then
    answers[#answers + 1] = redis.call('HGETALL', KEYS['steps:'] .. ARGV[at])
    bytes = bytes + bytes_of(answers[#answers])
  else
    answers[#answers + 1] = {'LATER'}
  end
end
return answers
