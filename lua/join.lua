#!lua flags=allow-oom
-- join: make the groups that are missing, for a worker that starts, or that finds them gone. A script, as the bare
-- command is refused on a full server, which is to be drained.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
--
-- Returns  how many groups were made

--- @include "include/expect"
--- @include "include/leases"
--- @include "include/make_group"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
expect('stream', streams[1], streams[2], streams[3])

local made = 0
for _, stream in ipairs(streams) do
  if not leases(stream) then
    make_group(stream)
    made = made + 1
  end
end
return made
