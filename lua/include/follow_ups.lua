-- follow_ups: push the jobs that a job pushes as it is done, all or none. `arguments` has them from `at` on, as
-- for push. `parent` is the job's id, and `own_key` its unique key, which is free for them. For `earlier` see
-- pusher. Returns OK, PARTIAL or SPOILED, the text after it as in settle's answer, and the pusher.
--- @include pusher is_taken expect forget_ends free
local function follow_ups(arguments, at, many, parent, own_key, now_ms, exact_ms, earlier)
  local pushing, pushes, looked = pusher(arguments, now_ms, exact_ms, earlier), {}, 0
  local counts = pushing.counts
  for i = 1, many do
    pushes[i] = {at = at, id = arguments[at], key = arguments[at + 4]}
    at = pushing.take(at)
  end

  for i, one in ipairs(pushes) do
    if counts.bytes >= 1048576 then break end
    looked = i
    local read
    one.is_taken, one.stale, read = is_taken(one.id)
    counts.bytes = counts.bytes + read
    local is_right, why = true, nil
    if one.key ~= '' then is_right, why = pcall(expect, 'string', KEYS['unique:'] .. one.key) end
    if not is_right then
      why = type(why) == 'table' and why.err or why -- servers differ in what pcall returns
      return 'SPOILED', string.gsub(why, '[%s%%]',
        function(each) return string.format('%%%02X', string.byte(each)) end), pushing
    end
    one.was_held = pushing.look_at(one.at, own_key, parent)
  end

  local is_partial, added, bits = looked < many, {}, {}
  for i = 1, looked do
    local one = pushes[i]
    local keeper, replaced = pushing.keeper(one.at)
    bits[i] = '0'
    if not (one.is_taken or added[one.id] or keeper) then
      if replaced or not is_partial then pushing.add(one.at, one.stale) end
      if not replaced then bits[i], added[one.id], added[#added + 1] = '1', true, one.id end
      -- Free such a key now: reading its holder again may use up all of the next call.
      if is_partial and not replaced and one.was_held then
        free(one.key, redis.call('GET', KEYS['unique:'] .. one.key))
      end
    end
  end
  if not is_partial then forget_ends(added) end
  return is_partial and 'PARTIAL' or 'OK', table.concat(bits), pushing
end
