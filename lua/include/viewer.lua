-- viewer: returns a function that makes a job's row, {name, value, ...}. A value that does not apply is ''.
--   id, entry, deliveries, mark, progress, history
--   place     of a delayed job `delayed:` and its priority
--   due       ms
--   consumer  the job's worker, or the consumer that stands for where it waits
--   held      1 if it is held, else 0
--   fields    {name, value, ...} of its entry
--   now, idle ms: the time, and how long its consumer has had it
--   why       what holds it back besides its place in line and its due time. A key of another type is no reason
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
    return {
      'id', job, 'place', place, 'entry', entry, 'due', due_ms or '', 'consumer', consumer or '',
      'deliveries', deliveries or '', 'mark', mark, 'held', is_held and 1 or 0, 'fields', fields,
      'now', whole(now_ms), 'idle', idle_ms or '', 'why', why,
      'progress', type(progress) == 'string' and progress or '',
      'history', history(fields, place .. ' ' .. entry),
    }
  end
end
