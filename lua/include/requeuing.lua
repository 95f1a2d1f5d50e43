-- requeuing: requeues dead letters and kept jobs. Returns two functions: the first requeues one job, the second
-- then writes the rest for all. A job gets its unique key again, if it held that key until its end.
--- @include field with delay line enqueue remove forget_ends count tell whole group_out event history add_line
--- @include time_of key_holder with_steps forget_steps
local function requeuing(now_ms, exact_ms)
  local priorities, dropped = {high = true, normal = true, low = true}, {}
  for _, name in ipairs({
    'reason', 'error', 'traceback', 'error_type', 'fingerprint', 'failed_at', 'worker', 'deliveries',
      'priority', 'attempt',
    'unknown_since', 'expires_at', 'started_at', 'suspended_at', 'waits', 'window', 'finished_at', 'ran_ms',
  }) do dropped[name] = true end
  local ids, located, gone, letters, first_due = {}, {}, {}, {}, nil

  -- Forget a step, all steps that were saved after it, and the checkpoint; '': forget all.
  local function go_back(id, key)
    local steps = KEYS['steps:'] .. id
    local first = tonumber(string.match(key ~= '' and redis.call('HGET', steps, key) or '', '^%d+') or nil)
    local saved, stays, drops, groups = redis.call('HGETALL', steps), {}, {'saved checkpoint'}, {}
    for i = 1, #saved, 2 do
      local number = not string.find(saved[i], ' ', 1, true)
        and tonumber(string.match(saved[i + 1], '^%d+') or nil)
      if number and first and number < first then
        stays[saved[i]] = true
      elseif number then
        drops[#drops + 1] = saved[i]
      end
    end
    if not next(stays) then return forget_steps({id}, now_ms) end
    for i = 1, #saved, 2 do
      local of = string.match(saved[i], '^children (.+)$')
      if of and stays[of] then
        groups[#groups + 1] = saved[i + 1]
      elseif of then
        drops[#drops + 1] = saved[i]
        redis.call('DEL', KEYS['children:'] .. saved[i + 1])
      end
    end
    if field(saved, 'child groups') then redis.call('HSET', steps, 'child groups', table.concat(groups, ' ')) end
    for i = 1, #drops, 500 do redis.call('HDEL', steps, unpack(drops, i, math.min(i + 499, #drops))) end
  end

  -- Return the job's history with two more lines: how it ended, and that it was requeued. If it gets new
  -- parameters, the second line has the old ones.
  local function story(stream, letter, found, old, is_independent)
    local function ended_as(what, note)
      return event(time_of(found, 'failed_at', letter), what, field(found, 'worker'),
        field(found, 'attempt'), note)
    end
    local is_dead, requeued = stream == KEYS.dead, event(now_ms, old and 'edited' or 'requeued', nil, nil, old)
    local ended = is_dead and ended_as('died', (field(found, 'reason') or '') .. ': ' .. (field(found, 'error')
      or '')) or ended_as('ended')
    local text = add_line(history(found, '', ended), requeued)
    return is_independent and add_line(text, event(now_ms, 'independent', nil, nil, 'its parent had gone on'))
      or text
  end

  -- A dead child becomes a member of its group again if its parent waits for other children of it. If the parent
  -- no longer waits, the job is independent. Returns whether it is independent, or nil and a function that makes
  -- it a member.
  local function leaves_group(fields)
    local token, index = string.match(field(fields, 'child_of') or '', '^(%S+) (%d+)$')
    if not token then return nil, function() end end
    local group = KEYS['children:'] .. token
    local known = redis.pcall('HMGET', group, 'left', 'closed', index)
    local left = not known.err and tonumber(known[1] or nil) or 0
    if left == 0 or known[2] then return true, function() end end
    return nil, function()
      if not known[3] then return end
      redis.call('HDEL', group, index)
      redis.call('HSET', group, 'left', whole(left + 1))
    end
  end

  -- `changes` is as for `with`; for `from_step` see requeue, nil: none. Returns nil, or why nothing was written.
  -- `oversized`: it has too many fields for a script. `no step`: it has saved no step of that key. `duplicate`:
  -- another job holds its unique key, or the key is no string. Then returns whether it was a child, and is an
  -- independent job now.
  local function add(stream, letter, id, found, changes, due_at, from_step)
    if field(found, 'entry') and not field(found, 'queued_at') then return 'oversized' end -- as set_aside packs it
    if (from_step or '') ~= '' and not redis.call('HGET', KEYS['steps:'] .. id, from_step) then
      return 'no step'
    end
    local key = field(changes, 'unique') or field(found, 'unique') or ''
    local is_free, key_of = true, nil
    if key ~= '' then is_free, key_of = pcall(key_holder, key, false, now_ms) end
    if not is_free or key_of then return 'duplicate' end
    local fields, priority = {}, 'normal'
    for i = 1, #found, 2 do
      local name, value = found[i], found[i + 1]
      if not dropped[name] then fields[#fields + 1], fields[#fields + 2] = name, value end
      if name == 'priority' and priorities[value] then priority = value end
    end
    if field(fields, 'id') ~= id then fields = with(fields, {'id', id}) end
    local old = field(changes, 'parameters') and (field(fields, 'parameters') or '') or nil
    local is_independent, rejoin = leaves_group(fields)
    if is_independent then fields = with(fields, {'child_of', ''}) end
    fields = with(fields, {'history', story(stream, letter, found, old, is_independent), unpack(changes)})
    if #fields > 1000 then return 'oversized' end
    rejoin()
    if from_step then go_back(id, from_step) end
    fields = with_steps(id, with(fields, {'steps', ''}))
    if due_at > now_ms then
      if delay(id, priority, fields, due_at, line(exact_ms, #ids)) then first_due = due_at end
    else
      enqueue(priority, id, fields, located)
    end
    ids[#ids + 1] = id
    gone[stream] = gone[stream] or {}
    table.insert(gone[stream], letter)
    if stream == KEYS.dead then table.insert(letters, {letter, found}) end
    if key ~= '' then redis.call('SET', KEYS['unique:'] .. key, id) end
    return nil, is_independent
  end

  -- Return the ids of the requeued jobs.
  local function write()
    if #located > 0 then redis.call('HSET', KEYS.jobs, unpack(located)) end
    for stream, entries in pairs(gone) do remove(stream, unpack(entries)) end
    group_out(letters)
    if #ids > 0 then
      forget_ends(ids)
      count('requeued', #ids)
    end
    if first_due then tell('due ' .. whole(first_due)) end
    return ids
  end
  return add, write
end
