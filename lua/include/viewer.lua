-- viewer: returns a function that makes a job's row, with '' for a value that does not apply:
--   {job id, place, entry, due ms, consumer, deliveries, mark, held, {name, value, ...}, now ms, idle ms, why,
--   progress, history}
-- place: for a delayed job `delayed:` and its priority. held: 1 if it is held. idle: how long its consumer has had
-- it. why: the reason it can't start, besides its place in line and due time. A key of another type is no reason.
--- @include field is_waiting whole history
local function viewer(now_ms)
  -- Only commands that every role with read access may run.
  local is_paused = redis.pcall('GET', KEYS.paused)
  local alive = redis.pcall('ZRANGE', KEYS.workers, string.format('(%.0f', now_ms), '+inf',
    'BYSCORE', 'LIMIT', 0, 1)

  local function obstacle(consumer, is_held, fields)
    if is_held then return 'held' end
    if is_paused then return 'paused' end
    if type(redis.pcall('HGET', KEYS['paused:names'], field(fields, 'name') or '')) == 'string' then
      return 'name paused'
    end
    if consumer and string.sub(consumer, 1, 5) == 'line:' then return 'limit' end
    if not alive.err and #alive == 0 then return 'no worker' end
    if (field(fields, 'unknown_since') or '') ~= '' then return 'no handler' end
    return consumer == 'alone' and 'last delivery' or ''
  end

  return function(job, place, entry, fields, mark, due_ms, consumer, deliveries, idle_ms)
    local is_aside = place == 'dead' or place == 'completed' or place == 'cancelled'
    local is_held = type(redis.pcall('HGET', KEYS.held, job)) == 'string'
    local why = not is_aside and is_waiting(consumer) and obstacle(consumer, is_held, fields) or ''
    local progress = not is_aside and redis.pcall('GET', KEYS['progress:'] .. job)
    return {job, place, entry, due_ms or '', consumer or '', deliveries or '', mark, is_held and 1 or 0,
      fields, whole(now_ms),
      idle_ms or '', why, type(progress) == 'string' and progress or '', history(fields, place .. ' ' .. entry)}
  end
end
