-- add_children: add children of a step, each once, and note in their group the children that can't be added.
-- `arguments` has them from `at` on, as for push. `step` has the `parent`'s id, the `key` of the step, the `token`
-- and the `total` of the group, and the `version` of the handler. For `earlier` see pusher.
-- Returns OK; PARTIAL, if it has stopped after 1 MB of the jobs that have their ids or keys; or SPOILED: nothing
-- was written. Then a text, as in settle's answer: for each child looked at 1 if it was added, or the error. Then
-- the pusher.
--- @include pusher is_taken stored expect forget_ends field whole
local function add_children(arguments, at, many, step, now_ms, exact_ms, earlier)
  local pushing, children, indexes, ids = pusher(arguments, now_ms, exact_ms, earlier), {}, {}, {}
  local group, steps, counts = KEYS['children:'] .. step.token, KEYS['steps:'] .. step.parent, pushing.counts
  expect('hash', group, steps)
  for i = 1, many do
    local one = {at = at, id = arguments[at], key = arguments[at + 4], child_of =
      arguments[at + 8 + tonumber(arguments[at + 8])]}
    one.index = string.match(one.child_of, '%d+$')
    one.is_named = one.id ~= step.token .. '-' .. one.index
    if one.key ~= '' then
      local is_right, why = pcall(expect, 'string', KEYS['unique:'] .. one.key)
      if not is_right then
        why = type(why) == 'table' and why.err or why -- servers differ in what pcall returns
        return 'SPOILED', string.gsub(why, '[%s%%]',
          function(each) return string.format('%%%02X', string.byte(each)) end), pushing
      end
    end
    children[i], indexes[i], ids[i] = one, one.index, one.id
    at = pushing.take(at)
  end

  if redis.call('EXISTS', group) == 0 then
    redis.call('HSET', group, 'parent', step.parent, 'key', step.key, 'total', step.total, 'left', step.total)
    local groups = redis.call('HGET', steps, 'child groups')
    redis.call('HSET', steps, 'children ' .. step.key, step.token, 'child groups',
      (groups and groups .. ' ' or '') .. step.token)
  end
  if not redis.call('HGET', steps, 'handler version') then
    redis.call('HSET', steps, 'handler version', step.version)
  end
  local ended = many > 0 and redis.call('HMGET', group, unpack(indexes)) or {}
  local located = many > 0 and redis.call('HMGET', KEYS.jobs, unpack(ids)) or {}

  local here = {} -- ids of children that were added in this call
  -- Return why a child is not added, in a word for its group; 'ours' if it was added before. Else return nil and a
  -- leftover member of `due`.
  local function against(one, i)
    if ended[i] or located[i] and not one.is_named then return 'ours' end
    if here[one.id] then return 'exists ' .. one.id end -- it is in the locator only after this loop
    local taken, stale, read = is_taken(one.id)
    counts.bytes = counts.bytes + read
    if taken then
      local there = stored(one.id, redis.call('HGET', KEYS.jobs, one.id)) or {}
      return field(there, 'child_of') == one.child_of and 'ours' or 'exists ' .. one.id
    end
    pushing.look_at(one.at)
    local keeper = pushing.keeper(one.at)
    return keeper and 'duplicate ' .. keeper.id or nil, stale
  end

  local bits, added, newly, refused = {}, {}, {}, 0
  for i, one in ipairs(children) do
    if counts.bytes >= 1048576 then break end
    local why, stale = against(one, i)
    bits[i] = why and '0' or '1'
    if not why then
      pushing.add(one.at, stale, newly)
      added[#added + 1], here[one.id] = one.id, true
    elseif why ~= 'ours' then
      redis.call('HSET', group, one.index, why)
      refused = refused + 1
    end
    if one.is_named and why ~= 'ours' then redis.call('HSET', group, 'id ' .. one.index, one.id) end
  end
  if #newly > 0 then redis.call('HSET', KEYS.jobs, unpack(newly)) end
  if refused > 0 then
    redis.call('HSET', group, 'left', whole(tonumber(redis.call('HGET', group, 'left')) - refused))
  end
  forget_ends(added)
  return #bits < many and 'PARTIAL' or 'OK', table.concat(bits), pushing
end
