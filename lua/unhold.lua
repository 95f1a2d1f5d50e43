#!lua flags=allow-oom
-- unhold: let go of a job that is held. If it was parked for that it is ready at once, in its place.
--
-- ARGV[1]  job           job id, or entry and place of one put in by hand, as 1732-0@low
--
-- Returns  OK         it was held, and is not any more; or the note of it was taken away by hand, and it was parked still
--          NOT_FOUND  it was not held; nothing was written

--- @include expect locate stream_of entry_at holder may_not_start hand_back tell

local job = ARGV[1]

expect('stream', KEYS['ready:high'], KEYS['ready:normal'], KEYS['ready:low'])
expect('hash', KEYS['paused:names'], KEYS.held)
local place, entry, _, id = locate(stream_of, job)
-- Of two that were put in by hand with one entry id, the one that is left goes by that when the other has ended.
local let_go = redis.call('HDEL', KEYS.held, job, id or job) > 0
local stream = place and stream_of[place]
local fields = stream and entry_at(stream, entry)
local consumer, deliveries = nil, nil
if fields then consumer, deliveries = holder(stream, entry) end
if consumer == 'parked' and not may_not_start(id, fields) then
  hand_back(stream, deliveries, {entry})
  tell('released 1')
  let_go = true
end
return let_go and 'OK' or 'NOT_FOUND'
