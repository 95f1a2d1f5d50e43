-- pusher: adds jobs from `arguments`, in the form that add_job reads, unless another job holds their unique key.
-- `earlier` is an earlier pusher of the same call, or nil; its counts continue. Returns a table:
--   counts           bytes of the jobs that were read; numbers of jobs pushed, and replaced
--   take(at)         note the push that begins at `at`; call it for all before `look_at`. Returns where the next
--                    push begins
--   look_at(at, own_key, owner)  read the holder of its key, before any job is added. The key that `owner` holds
--                    until it ends is free. Returns whether the key is free because its job has started
--   keeper(at)       the job that blocks its key, as key_holder returns it. If no job does, nil and the job that
--                    it replaces
--   add(at, stale, newly)  add it, see add_job. Returns the id of the waiting job that it replaced
--   write()          count the added jobs, and publish the earliest due time
--- @include key_holder add_job count tell whole
local function pusher(arguments, now_ms, exact_ms, earlier)
  local holders, replaceable = {}, {}
  local counts = earlier and earlier.counts or {bytes = 0, pushed = 0, replaced = 0, earliest = nil}
  local pushing = {counts = counts}

  pushing.take = function(at)
    if arguments[at + 7] == 'replace' then replaceable[arguments[at + 4]] = true end
    return at + 9 + tonumber(arguments[at + 8])
  end

  pushing.look_at = function(at, own_key, owner)
    local key = arguments[at + 4]
    if key == '' or holders[key] ~= nil then return false end
    local holding, read = nil, 0
    if key ~= own_key or redis.call('GET', KEYS['unique:'] .. key) ~= owner then
      holding, read = key_holder(key, replaceable[key], now_ms)
    end
    holders[key], counts.bytes = holding or false, counts.bytes + read
    return read > 0 and not holding
  end

  pushing.keeper = function(at)
    local holding = holders[arguments[at + 4]]
    local is_replaced = holding and arguments[at + 7] == 'replace' and holding.notes
    if is_replaced then return nil, holding end
    return holding
  end

  pushing.add = function(at, stale, newly)
    local key = arguments[at + 4]
    local replaced, number = holders[key], counts.pushed + counts.replaced
    local due_at, holding = add_job(arguments, at, now_ms, exact_ms, number, stale, newly, replaced)
    counts.earliest = due_at or counts.earliest
    if key ~= '' then holders[key] = holding end
    local counter = replaced and 'replaced' or 'pushed'
    counts[counter] = counts[counter] + 1
    return replaced and replaced.id
  end

  pushing.write = function()
    if counts.pushed > 0 then count('pushed', counts.pushed) end
    if counts.replaced > 0 then count('replaced', counts.replaced) end
    if counts.earliest then tell('due ' .. whole(counts.earliest)) end
  end

  return pushing
end
