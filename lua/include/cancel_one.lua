-- cancel_one: cancel a waiting or running job. Returns a word like cancel, the number of bytes of the job that
-- were read, and true if the job is there. The caller has checked the types of keys that it does not name here.
-- `ending` is as for finish_one, without `kept`.
--- @include stream_of locate stored expect kept member holder is_waiting whole tell finish_one note_event event
--- @include bytes_of
local function cancel_one(ending, job, now_ms)
  local place, entry, mark = locate(job)
  if not place then return 'NOT_FOUND', 0 end
  if place == 'dead' then return 'DEAD', 0, true end
  local fields, priority = stored(job, place .. ' ' .. entry)
  if not fields then return 'NOT_FOUND', 0 end

  local stream = stream_of[place] -- nil: delayed
  if place == 'delayed' then
    expect('zset', KEYS.due, KEYS.suspended)
    ending.kept = kept()
    redis.call('ZREM', mark == 'suspended' and KEYS.suspended or KEYS.due, member(entry, job))
    redis.call('HDEL', KEYS.delayed, job)
  else
    local consumer = holder(stream, entry)
    if not is_waiting(consumer) then
      expect('hash', KEYS['worker:'] .. consumer)
      redis.call('HSET', KEYS.jobs, job, place .. ' ' .. entry .. ' cancelling')
      local known = redis.call('HMGET', KEYS['worker:'] .. consumer, 'lease_ms', 'cancels')
      if known[1] then -- not HINCRBY: a role without it may cancel
        redis.call('HSET', KEYS['worker:'] .. consumer, 'cancels', whole((tonumber(known[2] or nil) or 0) + 1))
      end
      note_event({place .. ' ' .. entry}, event(now_ms, 'cancel-asked', consumer))
      tell('cancel ' .. job)
      return 'CANCELLING', bytes_of(fields), true
    end
  end

  ending.kept = ending.kept or kept()
  redis.call('HDEL', KEYS.held, job)
  finish_one(ending, 'cancelled', stream, entry, job, fields, now_ms, {}, priority)
  return 'CANCELLED', bytes_of(fields), true
end
