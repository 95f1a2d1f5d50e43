-- obstacle: returns a function that says why a job does not start, other than its place in line and due time; '' for no
-- reason. It takes the job's consumer, whether it is held, and its fields. A key of another type is no reason: a look
-- at a job answers.
--- @include field
local function obstacle(now_ms)
  -- Commands that every role with read access has.
  local is_paused = redis.pcall('GET', KEYS.paused)
  local alive = redis.pcall('ZRANGE', KEYS.workers, string.format('(%.0f', now_ms), '+inf', 'BYSCORE', 'LIMIT', 0, 1)
  return function(consumer, is_held, fields)
    if is_held == 1 then return 'held' end
    if is_paused then return 'paused' end
    if type(redis.pcall('HGET', KEYS['paused:names'], field(fields, 'name') or '')) == 'string' then return 'name paused' end
    if consumer and string.sub(consumer, 1, 5) == 'line:' then return 'limit' end
    if not alive.err and #alive == 0 then return 'no worker' end
    if (field(fields, 'unknown_since') or '') ~= '' then return 'no handler' end
    return consumer == 'alone' and 'last delivery' or ''
  end
end
