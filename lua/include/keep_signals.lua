-- keep_signals: keep these signals of a job, a flat list of names and values.
local function keep_signals(job, signals)
  if #signals == 0 then
    redis.call('HDEL', KEYS.signals, job)
  else
    redis.call('HSET', KEYS.signals, job, cjson.encode(signals))
  end
end
