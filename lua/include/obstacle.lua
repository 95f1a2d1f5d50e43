-- obstacle: why a job does not start, beside its place in line and its due time; '' for nothing. `keys` has paused, paused_names,
-- workers: a look at a job answers also where one of these has another type. Returns a function of the job's
-- consumer, whether it is held, and its fields. Needs field beside it.
local function obstacle(keys, now_ms)
  -- By commands that all roles have that look.
  local is_paused = redis.pcall('GET', keys.paused)
  local alive = redis.pcall('ZRANGE', keys.workers, string.format('(%.0f', now_ms), '+inf', 'BYSCORE', 'LIMIT', 0, 1)
  return function(consumer, is_held, fields)
    if is_held == 1 then return 'held' end
    if is_paused then return 'paused' end
    if type(redis.pcall('HGET', keys.paused_names, field(fields, 'name') or '')) == 'string' then return 'name paused' end
    if consumer and string.sub(consumer, 1, 5) == 'line:' then return 'limit' end
    if not alive.err and #alive == 0 then return 'no worker' end
    if (field(fields, 'unknown_since') or '') ~= '' then return 'no handler' end
    return consumer == 'alone' and 'last delivery' or ''
  end
end
