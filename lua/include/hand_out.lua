-- hand_out: may an entry that was delivered before be handed out again? If a cancel was asked for while
-- it ran, it is forgotten; if it was delivered more than `max_deliveries` times without an outcome, it is a
-- poison job and becomes a dead letter. Only otherwise: true. What is ended so goes to `keys.ended`, for the
-- worker to tell of. Needs field, free, remember, bury beside it.
local function hand_out(keys, stream, entry, deliveries, fields, max_deliveries, worker, now_ms)
  local job = field(fields, 'id') or entry
  local here = string.match(stream, '}:(.+)$') .. ' ' .. entry
  local located = redis.call('HGET', keys.jobs, job)
  if located == here .. ' cancelling' then
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
    redis.call('HDEL', keys.jobs, job)
    free(keys.unique, field(fields, 'unique'), job)
    remember(keys.finished, now_ms, {job})
    redis.call('HINCRBY', keys.stats, 'cancelled', 1)
    table.insert(keys.ended, {job, 'CANCELLED'})
    return false
  end
  if deliveries > max_deliveries then
    if located and located ~= here then job = entry end -- another job has the id of this one, put in by hand
    bury(stream, keys.jobs, keys.dead, entry, job, fields, {
      'reason', 'worker lost',
      'error', 'handed out ' .. (deliveries - 1) .. ' times without an outcome: its workers died or lost it',
      'failed_at', string.format('%.0f', now_ms), 'worker', worker, 'deliveries', tostring(deliveries - 1),
    })
    free(keys.unique, field(fields, 'unique'), job)
    redis.call('HINCRBY', keys.stats, 'dead', 1)
    table.insert(keys.ended, {job, 'DEAD'})
    return false
  end
  return true
end
