-- take_in: push the entries that people put into the inbox with redis-cli, up to 100 entries or about 1 MB. An
-- entry becomes a job in the call that deletes it, so it is pushed once. If a job with its given id is on the
-- queue, nothing is added. An entry that can't be a job becomes a dead letter with the reason. Returns {id,
-- UNDECODABLE} for each of these.
--- @include field bytes_of whole pushed_at is_taken add_job forget_ends reject remove count tell expect
local function take_in(now_ms, exact_ms)
  local rejected = {}
  if redis.pcall('XLEN', KEYS.inbox) == 0 then return rejected end
  expect('stream', KEYS.inbox, KEYS.dead)
  expect('hash', KEYS.delayed)
  local known = {name = true, parameters = true, priority = true, id = true, delay = true}
  local priorities = {high = true, normal = true, low = true}

  -- Return why an entry can't be a job; nil if it can.
  local function fault(fields)
    for i = 1, #fields, 2 do
      if not known[fields[i]] then
        return 'no field ' .. fields[i] .. ': give name, parameters, priority, id, delay'
      end
    end
    local name, priority, id, delay = field(fields, 'name'), field(fields, 'priority'), field(fields, 'id'),
      field(fields, 'delay')
    if not name or #name > 800 or not string.find(name, '^[^%s%c]+$') then
      return 'no name: give 1 to 200 characters, no spaces'
    end
    if priority and not priorities[priority] then
      return 'priority ' .. priority .. ': give high, normal or low'
    end
    if id and (id == '' or #id > 2000) then return 'id: give 1 to 500 characters' end
    if delay and not (string.find(delay, '^%d+%.?%d*$') and #delay <= 16) then
      return 'delay ' .. delay .. ': give seconds'
    end
    return nil
  end

  local number, earliest, bytes = 0, nil, 0
  local function push(entry, fields)
    local given, put_at = field(fields, 'id'), pushed_at(entry, now_ms)
    local id, at_ms = given or entry, now_ms
    local taken, stale, read = is_taken(id)
    bytes = bytes + read
    if taken and given then return end
    while taken do -- as in include/reject
      id, at_ms = entry .. '-' .. whole(at_ms), at_ms + 1
      taken, stale, read = is_taken(id)
      bytes = bytes + read
    end
    local due_at = tonumber(put_at) + math.ceil(tonumber(field(fields, 'delay') or 0) * 1000)
    local values = {'name', field(fields, 'name'), 'parameters', field(fields, 'parameters') or '{}'}
    if due_at <= now_ms then values[5], values[6] = 'queued_at', put_at end
    local due, nonce = due_at > now_ms and whole(due_at) or '', given and entry or ''
    local job = {id, nonce, field(fields, 'priority') or 'normal', due, '', '', '', '', #values, unpack(values)}
    number = number + 1
    earliest = add_job(job, 1, now_ms, exact_ms, number, stale) or earliest
    forget_ends({id})
    count('pushed', 1)
  end

  -- A stream that was given the largest entry id takes no more jobs. Then write none. Any other error ends the
  -- script.
  local function fault_of_push(entry, fields)
    local pushed, problem = pcall(push, entry, fields)
    local why = type(problem) == 'table' and problem.err or problem
    if not pushed and not string.find(why, 'exhausted', 1, true) then return error({err = why}) end
    return not pushed and why or nil
  end

  for _, found in ipairs(redis.call('XRANGE', KEYS.inbox, '-', '+', 'COUNT', 100)) do
    local entry, fields = found[1], found[2]
    local why = fault(fields) or fault_of_push(entry, fields)
    if why then
      rejected[#rejected + 1] = {reject(KEYS.inbox, entry, fields, why, now_ms, 'normal'), 'UNDECODABLE'}
    else
      remove(KEYS.inbox, entry)
    end
    bytes = bytes + bytes_of(fields)
    if bytes >= 1048576 then break end
  end
  if earliest then tell('due ' .. whole(earliest)) end
  return rejected
end
