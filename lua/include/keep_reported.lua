-- keep_reported: keep a job's progress for another minute after its end, for processes that watch it. Keep its
-- chunks for a minute too, or as long as its result, if that is longer.
--- @include whole
local function keep_reported(job, ms)
  redis.call('PEXPIRE', KEYS['progress:'] .. job, 60000)
  redis.call('PEXPIRE', KEYS['chunks:'] .. job, whole(math.max(60000, ms)))
end
