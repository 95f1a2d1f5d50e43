-- deliver: give a worker an entry that was delivered before; `deliveries` counts this time too. If a cancel was asked for
-- while it ran, it is forgotten instead. If it was delivered `max_deliveries` times without an outcome, and its worker
-- was lost while it ran nothing else, it is what kills its workers, and becomes a dead letter. Before that it is
-- delivered for the last time to a worker that runs nothing beside it, so that no other job dies, or is judged, in its
-- place; the locator has the mark `alone` then. (With a `max_deliveries` of 1 no job is delivered twice: no proof can be
-- had.) What is ended here goes to `keys.ended`, for the worker to tell of; so does, with NO_IDS, what can't be a dead
-- letter as `dead` has no entry ids left.
-- Needs field, free, push_of, remember, pushed_at, bury, entry_at, identify, count, unlocate beside it.
--
-- Returns the fields if it was given, and whether it is to run alone; or nil, and why it was not: `ended`; or `waits`, for
-- a worker with nothing else to run, or `stays`, with NO_IDS: then nothing was written
local function deliver(keys, stream, entry, deliveries, max_deliveries, worker, now_ms, runs_nothing)
  local fields = entry_at(stream, entry)
  if not fields then -- removed by hand while it was leased
    unlocate(keys.jobs, stream, entry)
    redis.call('XACK', stream, 'workers', entry)
    return nil, 'ended'
  end
  local place = string.match(stream, '}:(.+)$')
  local job, mark = identify(keys.places, keys.jobs, place, entry, fields)
  if mark == 'cancelling' then
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
    redis.call('HDEL', keys.jobs, job)
    free(keys.unique, field(fields, 'unique'), job)
    remember(keys.ending, {push_of(job, field(fields, 'nonce'))})
    count(keys.stats, 'cancelled', 1)
    table.insert(keys.ended, {job, 'CANCELLED'})
    return nil, 'ended'
  end
  if deliveries > max_deliveries and (mark == 'alone' or max_deliveries == 1) then
    local alone = mark == 'alone' and ', the last time with nothing beside it' or ''
    local buried = bury(stream, keys.jobs, keys.dead, entry, job, fields, {
      'reason', 'worker lost',
      'error', 'delivered ' .. (deliveries - 1) .. ' times without an outcome' .. alone .. ': it may kill its workers',
      'failed_at', string.format('%.0f', now_ms), 'worker', worker, 'deliveries', tostring(deliveries - 1),
    }, now_ms)
    if not buried then
      table.insert(keys.ended, {job, 'NO_IDS'})
      return nil, 'stays'
    end
    free(keys.unique, field(fields, 'unique'), job)
    count(keys.stats, 'dead', 1)
    table.insert(keys.ended, {job, 'DEAD'})
    return nil, 'ended'
  end
  local alone = deliveries >= max_deliveries and max_deliveries > 1
  if alone and not runs_nothing() then return nil, 'waits' end
  redis.call('XCLAIM', stream, 'workers', worker, 0, entry, 'RETRYCOUNT', deliveries, 'JUSTID')
  if alone then
    redis.call('HSET', keys.jobs, job, place .. ' ' .. entry .. ' alone')
  elseif mark == 'alone' then
    redis.call('HSET', keys.jobs, job, place .. ' ' .. entry)
  end
  return fields, alone
end
