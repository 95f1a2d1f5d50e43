-- take_in: push what people put into the inbox with redis-cli, up to 100 entries, or about 1 MB. An entry becomes a job
-- in the call that deletes it, so it is pushed once. It goes by the id it gives, else by its entry id; if a job of the
-- given id is on the queue, nothing is added. What can't be a job becomes a dead letter that says why.
--- @include field bytes_of whole pushed_at member stored stream_of add_job forget_ends reject remove count tell expect
local function take_in(now_ms, exact_ms)
  local waiting = redis.pcall('XLEN', KEYS.inbox)
  if waiting == 0 then return end
  expect('stream', KEYS.inbox, KEYS.dead)
  expect('hash', KEYS.delayed)
  local places = {high = stream_of.high, normal = stream_of.normal, low = stream_of.low, dead = KEYS.dead}
  local known = {name = true, parameters = true, priority = true, id = true, delay = true}

  -- Why an entry can't be a job; nil if it can.
  local function fault(fields)
    for i = 1, #fields, 2 do
      if not known[fields[i]] then return 'no field ' .. fields[i] .. ': give name, parameters, priority, id, delay' end
    end
    local name, priority, id, delay = field(fields, 'name'), field(fields, 'priority'), field(fields, 'id'), field(fields, 'delay')
    if not name or #name > 800 or not string.find(name, '^[^%s%c]+$') then
      return 'no name: give 1 to 200 characters, no spaces'
    end
    if priority and not (priority ~= 'dead' and places[priority]) then return 'priority ' .. priority .. ': give high, normal or low' end
    if id and (id == '' or #id > 2000) then return 'id: give 1 to 500 characters' end
    if delay and not (string.find(delay, '^%d+%.?%d*$') and #delay <= 16) then return 'delay ' .. delay .. ': give seconds' end
    return nil
  end

  -- Whether a job of this id is on the queue; if not, its leftover member of `due`.
  local function is_taken(id)
    local located = redis.call('HGET', KEYS.jobs, id)
    local place, rest = string.match(located or '', '^(%S+) ?(%S*)')
    if not place or place == 'completed' or place == 'cancelled' then return false end
    return stored(places, id, located) ~= nil, place == 'delayed' and member(rest, id) or nil
  end

  local number, earliest, bytes = 0, nil, 0
  local function push(entry, fields)
    local given, put_at = field(fields, 'id'), pushed_at(entry, now_ms)
    local id = given or entry
    local taken, stale = is_taken(id)
    if taken and given then return end
    if taken then id = entry .. '-' .. whole(now_ms) end
    local due_at = tonumber(put_at) + math.ceil((tonumber(field(fields, 'delay') or 0)) * 1000)
    local values = {'name', field(fields, 'name'), 'parameters', field(fields, 'parameters') or '{}'}
    if due_at <= now_ms then values[5], values[6] = 'queued_at', put_at end
    local nonce, priority = given and entry or '', field(fields, 'priority') or 'normal'
    number = number + 1
    forget_ends({id})
    local job = {id, nonce, priority, due_at > now_ms and whole(due_at) or '', '', '', '', '', #values, unpack(values)}
    earliest = add_job(job, 1, now_ms, exact_ms, number, stale) or earliest
    count('pushed', 1)
  end

  for _, found in ipairs(redis.call('XRANGE', KEYS.inbox, '-', '+', 'COUNT', 100)) do
    local entry, fields = found[1], found[2]
    local why = fault(fields)
    local pushed, problem = true, nil
    if not why then pushed, problem = pcall(push, entry, fields) end
    if not pushed then why = type(problem) == 'table' and problem.err or problem end
    if why then
      reject(KEYS.inbox, entry, fields, why, now_ms, 'normal')
    else
      remove(KEYS.inbox, entry)
    end
    bytes = bytes + bytes_of(fields)
    if bytes >= 1048576 then break end
  end
  if earliest then tell('due ' .. whole(earliest)) end
end
