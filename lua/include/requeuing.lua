-- requeuing: requeues dead letters and kept jobs. Returns two functions: the first requeues one job, the second then writes
-- the rest for all.
--- @include field with delay line enqueue remove forget_ends count tell whole
local function requeuing(now_ms, exact_ms)
  local priorities, dropped = {high = true, normal = true, low = true}, {}
  for _, name in ipairs({
    'reason', 'error', 'traceback', 'error_type', 'fingerprint', 'failed_at', 'worker', 'deliveries', 'priority', 'attempt',
    'unknown_since', 'expires_at', 'started_at', 'unique', 'unique_until', 'window', 'finished_at', 'ran_ms',
  }) do dropped[name] = true end
  local ids, located, gone, first_due = {}, {}, {}, nil

  -- `changes` is as for `with`. Returns whether the job was requeued. If it has too many fields for a script, nothing is written.
  local function add(stream, letter, id, found, changes, due_at)
    if field(found, 'entry') and not field(found, 'queued_at') then return false end -- as set_aside packs it
    local fields, priority = {}, 'normal'
    for i = 1, #found, 2 do
      local name, value = found[i], found[i + 1]
      if not dropped[name] then fields[#fields + 1], fields[#fields + 2] = name, value end
      if name == 'priority' and priorities[value] then priority = value end
    end
    if field(fields, 'id') ~= id then fields = with(fields, {'id', id}) end
    if #changes > 0 then fields = with(fields, changes) end
    if #fields > 1000 then return false end
    if due_at > now_ms then
      if delay(id, priority, fields, due_at, line(exact_ms, #ids)) then first_due = due_at end
    else
      enqueue(priority, id, fields, located)
    end
    ids[#ids + 1] = id
    gone[stream] = gone[stream] or {}
    table.insert(gone[stream], letter)
    return true
  end

  -- Returns the ids of the requeued jobs.
  local function write()
    if #located > 0 then redis.call('HSET', KEYS.jobs, unpack(located)) end
    for stream, letters in pairs(gone) do remove(stream, unpack(letters)) end
    if #ids > 0 then
      forget_ends(ids)
      count('requeued', #ids)
    end
    if first_due then tell('due ' .. whole(first_due)) end
    return ids
  end
  return add, write
end
