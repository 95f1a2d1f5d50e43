#!lua flags=allow-oom
-- unhold: let a held job start. If it was parked, workers can claim it at once, in its place.
--
-- ARGV[1]  job           job id
-- Returns  OK         it is no longer held; or it was still parked, though its note in `held` was deleted
--          NOT_FOUND  it was not held; nothing was written

--- @include stream_of expect streams locate entry_at holder may_not_start hand_back tell
local job = ARGV[1]

expect('stream', unpack(streams))
expect('hash', KEYS['paused:names'], KEYS.held)
local place, entry = locate(job)
local let_go = redis.call('HDEL', KEYS.held, job) > 0
local stream = place and stream_of[place]
local fields = stream and entry_at(stream, entry)
local consumer, deliveries = nil, nil
if fields then consumer, deliveries = holder(stream, entry) end
if consumer == 'parked' and not may_not_start(job, fields) then
  hand_back(stream, deliveries, {entry})
  tell('released 1')
  let_go = true
end
return let_go and 'OK' or 'NOT_FOUND'
