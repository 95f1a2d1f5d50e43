#!lua flags=allow-oom
-- settle: end the leases of many jobs at once: each is done, runs again later, is handed back, or becomes a dead
-- letter. Their shares of limits become free. Then promote due jobs, and say what a claim would find.
--
-- Every check comes before the first write: the worker has a record, and each job's locator names the very entry that
-- is settled. So a batch of jobs that are done takes a few commands; only if one of them is not as expected is each
-- looked at. A batch has a number: if it is sent again, it gets the same answer and is not applied twice. Jobs that
-- push others are sent in a batch of their own without the flag `allow-oom`, so that a full server refuses only those.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  lane          which of the worker's exchanges this is: two may be under way
-- ARGV[3]  number        int     of this batch in its lane, greater each time; 0: it is never sent again
-- ARGV[4]  promote       '1': promote, and say what a claim would find
-- ARGV[5]  now_ms        int ms; '' = the server's clock
-- ARGV[6]  high          int     how many jobs of ready:high are done, by their first delivery
-- ARGV[7]  normal        int     the same of ready:normal
-- ARGV[8]  low           int     the same of ready:low
-- ARGV[9]  young         int     how many pushes of those may still be repeated; 'ids': all, and each is its id alone
-- ARGV[10] uniques       int     how many unique keys those have
-- ARGV[11] results       int     how many of those have a result: how long it is kept, ms; `completed` or `refused`; JSON, or
--          why. One that has reported progress counts too: '', `reported`, ''
-- ARGV[12..] for each stream the entries of those, then their ids; the pushes; for each unique key: key, job id; for each
--          result: stream 1..3, which entry of that, from 1, keep, word, text; then for
--          each other job: settlement, stream 1..3, entry, deliveries, job id, number of values; the
--          values, by its settlement:
--          done: unique key, nonce of its push, keep, word, text ·
--          cancelled: unique key, nonce of its push, keep, word, text ·
--          report: progress (JSON; the job runs on) ·
--          lingers: none (may the job be settled, though a thread of its handler runs on?) ·
--          release: refund ('1': the delivery does not count; '0': it does) ·
--          pushes: unique key, nonce of its push, keep, word, text, how many jobs it pushes (and these, as push takes them) ·
--          retry: due ('+5000' in ms, or a time in ms), names and values of the fields to change ('' removes one) ·
--          fail: reason, error, traceback, error type, fingerprint (each of these three '' for none), reported ('1': progress)
--
-- Returns  {now_us, due_in, ahead, {unread 1..3, readable 1..3}, turn_in, word, ...}: the clock; µs until the next delayed
--          job (-1: none); what a claim would find, a sum: 1 jobs were handed back, or wait in the inbox; 2 some jobs may not start, so only the script
--          may claim; 4 the queue is paused, and nothing else is said; 32 or 64 the first handed back are of the second or third
--          stream; 8, where nothing was promoted, the next of a waiting line may start, so a claim is needed; 16 this call looked at
--          lines, so this worker sees to the next turn too; unread jobs of each stream, and how many of them one read may fetch, as
--          some are large (0: any number); µs until the next of a line may start (-1: none waits for a time); and a word for each
--          job in order, or OK alone for all. Or one word for the whole call, FENCED or STALE:
--          OK          settled as asked. If it pushes jobs, after `:`, for each 1 if it was added, 0 if another job has its id or
--                      keeps its unique key, or was replaced
--          CANCELLED   it was to run again, and a cancel was asked for while it ran: gone instead
--          OVERSIZED   it has more values than a script can add; nothing was written
--          PARTIAL     it pushes jobs, and the jobs that have their ids or keys are large: until 1 MB of them was read, after `:`,
--                      for each of the first 0 as after OK, which is final, or 1 if it may be added. Settle the job again, with
--                      these and the others. Only replaced jobs and keys that running jobs held until their start were written
--          SPOILED     the unique key of a job that it pushes has another type; nothing was written. After `:` what is wrong, each
--                      space and % of it as %20
--          RUNNING     it lingers, and counts for the max_concurrency of its name: settle it when the thread has ended; nothing
--                      was written
--          LEASE_LOST  the job is no longer this worker's; nothing was written. Or its entry was deleted while it ran; then the
--                      lease of one that was to be handed back is gone
--          FENCED      the worker has no record any more; nothing was written for any job
--          STALE       a later batch of its lane came before this one; nothing was written for any job

--- @include stream_of now expect leases streams slot kept whole entry_at conclude finish keep field enqueue
--- @include hand_back remove count tell restrictions ends tell_others promote prospect

stream_of.dead = KEYS.dead
local record = KEYS['worker:'] .. ARGV[1]
local worker, lane, turn, promotes = ARGV[1], 'answer:' .. ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local now_ms, exact_ms = now(ARGV[5])
local done = {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])}
local only_ids = ARGV[9] == 'ids'
local young, uniques = only_ids and 0 or tonumber(ARGV[9]), tonumber(ARGV[10])
local results, total = tonumber(ARGV[11]), done[1] + done[2] + done[3]
local first_done = 12
local first_young = first_done + 2 * total
local first_unique = first_young + young
local first_result = first_unique + 2 * uniques
local first_other = first_result + 5 * results
local ending = {}

local known = redis.pcall('HMGET', record, 'lease_ms', lane)
if known.err then
  expect('hash', record)
  return error(known)
end
if not known[1] then return 'FENCED' end
local last, answer = string.match(known[2] or '0 ', '^(%d+) (.*)$')
last = tonumber(last) or 0
if turn > 0 and turn < last then return 'STALE' end

-- Whether each job that is done is this worker's, where its locator says, without a mark. All places are compared as one text,
-- which costs a tenth of comparing each.
local function all_in_order()
  -- Whether this worker holds each by its first delivery. A batch is mostly neighbours; entries among too many others are asked
  -- for one by one.
  local function has(stream, first, last)
    local deliveries = {}
    for _, pending in ipairs(leases(stream, ARGV[first], ARGV[last], 2 * (last - first + 1), worker) or {}) do
      deliveries[pending[1]] = pending[4]
    end
    for at = first, last do
      local pending = deliveries[ARGV[at]] or ((leases(stream, ARGV[at], ARGV[at], 1, worker) or {})[1] or {})[4]
      if pending ~= 1 then return false end
    end
    return true
  end

  local at = first_done
  for number, many in ipairs(done) do
    if many > 0 then
      local place = string.match(streams[number], '[^:]+$') .. ' '
      local located = redis.call('HMGET', KEYS.jobs, unpack(ARGV, at + many, at + 2 * many - 1))
      local known, text = pcall(table.concat, located, ',')
      if not known or text ~= place .. table.concat(ARGV, ',' .. place, at, at + many - 1) then return false end
      if not has(streams[number], at, at + many - 1) then return false end
      at = at + 2 * many
    end
  end
  return true
end

-- Check the types of the keys that these jobs need, before anything is written.
local function expect_all(well)
  local settlements = {}
  local at = first_other
  while at <= #ARGV do
    settlements[ARGV[at]] = true
    at = at + 6 + tonumber(ARGV[at + 5])
  end
  if settlements.retry or settlements.pushes then
    expect('zset', KEYS.due)
    expect('hash', KEYS.delayed)
  end
  if settlements.fail then expect('stream', KEYS.dead) end
  local ends_some = settlements.done or settlements.cancelled or settlements.pushes or settlements.retry
  local remembers = total > 0 and (not well or only_ids or young > 0)
  if remembers or ends_some then expect('set', slot(now_ms)) end
  if total > 0 or ends_some then
    ending.kept = kept()
  end
end

-- The notes on a job's run, as kept jobs have them.
local function ran(deliveries, ran_ms)
  return {'worker', worker, 'deliveries', whole(deliveries), 'ran_ms', whole(ran_ms or 0)}
end

-- The jobs that are done, as `completed` is to keep them, read before they go. One whose entry was deleted is not kept.
local function fields_of_all()
  local read, at = {}, first_done
  for number, many in ipairs(done) do
    local priority = string.match(streams[number], '}:ready:(.+)$')
    for i = at, at + many - 1 do
      local fields = entry_at(streams[number], ARGV[i])
      if fields then
        local ran_ms = ((leases(streams[number], ARGV[i], ARGV[i], 1, worker) or {})[1] or {})[3]
        read[#read + 1] = {priority = priority, entry = ARGV[i], job = ARGV[i + many], fields = fields, notes = ran(1, ran_ms)}
      end
    end
    at = at + 2 * many
  end
  return read
end

-- Note the results of the jobs that are done, and tell the processes that wait for them.
local function conclude_all(ids)
  local before = {0, done[1], done[1] + done[2]}
  for at = first_result, first_other - 1, 5 do
    local id = ids[before[tonumber(ARGV[at])] + tonumber(ARGV[at + 1])]
    conclude(ending.ends, id, ARGV[at + 3], ARGV[at + 4], ARGV[at + 2])
  end
  if not ending.ends.awaited then return end
  for i, processes in ipairs(redis.call('HMGET', KEYS.waiters, unpack(ids))) do
    if processes then conclude(ending.ends, ids[i], 'completed') end
  end
end

-- Functions that few batches need are made only there, as each costs a tenth of a µs: here, if any job runs under a limit, or
-- waits for one.
local is_limited = redis.call('EXISTS', KEYS.shares, KEYS.turns) > 0
local free_shares, is_counted, look_at_turns, turn_in
if is_limited then
  --- @include give_up limit_of take_turns next_turn
  free_shares = function(places, is_refunded) give_up(places, now_ms, is_refunded) end
  is_counted = function(place)
    local bucket = redis.call('HGET', KEYS.shares, place)
    local limit = bucket and limit_of(string.match(bucket, '^%S*'))
    return limit and limit.most
  end
  look_at_turns = function() return take_turns(now_ms, math.floor(exact_ms * 1000 + 0.5)) end
  turn_in = function() return next_turn(exact_ms) end
end

local function end_all()
  local entries, ids, at = {}, {}, first_done
  for number, many in ipairs(done) do
    if many > 0 then
      entries[streams[number]] = {unpack(ARGV, at, at + many - 1)}
      if many == total then
        ids = {unpack(ARGV, at + many, at + 2 * many - 1)} -- mostly all are of one stream
      else
        for i = at + many, at + 2 * many - 1 do ids[#ids + 1] = ARGV[i] end
      end
      at = at + 2 * many
    end
  end
  local unique_keys = {unpack(ARGV, first_unique, first_result - 1)}
  local pushes = only_ids and ids or {unpack(ARGV, first_young, first_young + young - 1)}
  local read = ending.kept.completed and fields_of_all() or {}
  conclude_all(ids)
  if is_limited then
    local places = {}
    for stream, ended in pairs(entries) do
      local place = string.match(stream, '[^:]+$') .. ' '
      for _, entry in ipairs(ended) do places[#places + 1] = place .. entry end
    end
    free_shares(places)
  end
  finish('completed', entries, ids, unique_keys, pushes, now_ms)
  for _, one in ipairs(read) do
    keep(ending, 'completed', one.priority, one.entry, one.job, one.fields, one.notes, now_ms)
  end
end

-- Settle the other jobs one by one; and all jobs, if one of those that are done is not as expected.
local function settle_others(in_order)
  --- @include due_time mark_of reject is_taken with delay key_holder add_job forget_ends dead_letter finish_one line pushed_at
  --- @include free tell_waiters
  local retried, released, pushed, replaced, earliest = 0, 0, 0, 0, nil
  local bytes, most_bytes = 0, 1048576 -- read of jobs that have the ids or keys of pushed ones
  local function again(number, entry, job, fields, changes, due_at)
    if not field(fields, 'queued_at') then
      changes[#changes + 1], changes[#changes + 2] = 'queued_at', pushed_at(entry, now_ms)
    end
    fields = with(fields, changes)
    if due_at > now_ms then
      local priority = string.match(streams[number], '}:ready:(.+)$')
      local place = line(exact_ms, retried + pushed + replaced)
      if delay(job, priority, fields, due_at, place) then earliest = due_at end
    else
      enqueue(number, job, fields)
    end
    retried = retried + 1
  end

  local settlements = {}

  settlements.done = function(number, entry, deliveries, job, fields, values, mark, ran_ms)
    fields = fields or {'unique', values[1], 'nonce', values[2]}
    local told = {values[3], values[4], values[5]}
    finish_one(ending, 'completed', streams[number], entry, job, fields, now_ms, ran(deliveries, ran_ms), nil, told)
    return 'OK'
  end

  settlements.cancelled = function(number, entry, deliveries, job, fields, values, mark, ran_ms)
    fields = fields or {'unique', values[1], 'nonce', values[2]}
    local told = {values[3], values[4], values[5]}
    finish_one(ending, 'cancelled', streams[number], entry, job, fields, now_ms, ran(deliveries, ran_ms), nil, told)
    return 'OK'
  end

  -- What pushed jobs meet, before any is written: where in `values` each begins, whether its id is taken, what has to go from
  -- `due`; the holder of each unique key; and how many were looked at, as holders may be large. A key that the parent holds until
  -- it ends, `own_key`, is free; the parent is not read for that. Nil, and why, if a unique key has another type.
  local function look_at_pushes(values, many, parent, own_key)
    local found, asked, holders, at = {}, {}, {}, 7
    for i = 1, many do
      found[i] = {at = at}
      if values[at + 7] == 'replace' then asked[values[at + 4]] = true end
      at = at + 9 + tonumber(values[at + 8])
    end
    for i, one in ipairs(found) do
      if bytes >= most_bytes then return found, holders, i - 1 end
      local key = values[one.at + 4]
      local read
      one.is_taken, one.stale, read = is_taken(values[one.at])
      bytes = bytes + read
      if key ~= '' and holders[key] == nil then
        local is_right, why = pcall(expect, 'string', KEYS['unique:'] .. key)
        if not is_right then return nil, type(why) == 'table' and why.err or why end -- servers differ in what pcall returns
        local holding, read = nil, 0
        if key ~= own_key or redis.call('GET', KEYS['unique:'] .. key) ~= parent then
          holding, read = key_holder(key, asked[key], now_ms)
        end
        holders[key], bytes = holding or false, bytes + read
        one.was_held = read > 0 and not holding
      end
    end
    return found, holders, many
  end

  -- Push one of them. Returns '1' if it was added, '0' if not.
  local function push_one(values, one, holders, added)
    local id, key, replaces = values[one.at], values[one.at + 4], values[one.at + 7] == 'replace'
    local holding = holders[key]
    if one.is_taken or added[id] or holding and not (replaces and holding.notes) then return '0' end
    local number = retried + pushed + replaced
    local first, waits = add_job(values, one.at, now_ms, exact_ms, number, one.stale, nil, holding)
    earliest = first or earliest
    if key ~= '' then holders[key] = waits end
    if holding then
      replaced = replaced + 1
      return '0'
    end
    pushed = pushed + 1
    added[id], added[#added + 1] = true, id
    return '1'
  end

  settlements.pushes = function(number, entry, deliveries, job, fields, values, mark, ran_ms)
    local own_key = fields and field(fields, 'unique') or values[1]
    local found, holders, looked = look_at_pushes(values, tonumber(values[6]), job, own_key)
    if not found then
      local why = string.gsub(holders, '[%s%%]', function(one) return string.format('%%%02X', string.byte(one)) end)
      return 'SPOILED' .. ':' .. why
    end
    local told, added = {}, {}
    for i = 1, looked do
      local id, key = values[found[i].at], values[found[i].at + 4]
      if looked < #found and not (found[i].is_taken or added[id] or holders[key]) then
        told[i], added[id] = '1', true
      else
        told[i] = push_one(values, found[i], holders, added)
      end
    end
    forget_ends(added)
    if looked < #found then
      -- Free such keys now: to read their holders again may take all of the next call.
      for i, word in ipairs(told) do
        local key = values[found[i].at + 4]
        if word == '1' and found[i].was_held then free(key, redis.call('GET', KEYS['unique:'] .. key)) end
      end
      return 'PARTIAL' .. ':' .. table.concat(told)
    end
    return settlements.done(number, entry, deliveries, job, fields, values, mark, ran_ms) .. ':' .. table.concat(told)
  end

  settlements.report = function(_, _, _, job, _, values)
    redis.call('SET', KEYS['progress:'] .. job, values[1], 'PX', 86400000)
    local processes = ending.ends.awaited and redis.call('HGET', KEYS.waiters, job)
    if processes then tell_waiters(ending.ends, job, processes) end
    return 'OK'
  end

  settlements.lingers = function(number, entry)
    return is_limited and is_counted(string.match(streams[number], '[^:]+$') .. ' ' .. entry) and 'RUNNING' or 'OK'
  end

  settlements.release = function(number, entry, deliveries, _, _, values)
    local there = hand_back(streams[number], math.max(0, deliveries - tonumber(values[1])), {entry})
    if #there == 0 then return 'LEASE_LOST' end
    released = released + 1
    return 'OK'
  end

  settlements.retry = function(number, entry, deliveries, job, fields, values, mark, ran_ms)
    if mark == 'cancelling' then
      local told = {field(values, 'keep_result')} -- only its worker may know that
      finish_one(ending, 'cancelled', streams[number], entry, job, fields, now_ms, ran(deliveries, ran_ms), nil, told)
      return 'CANCELLED'
    end
    if #fields > 1000 then return 'OVERSIZED' end
    local due_at = due_time(table.remove(values, 1), exact_ms)
    again(number, entry, job, fields, values, due_at)
    -- Last: if Redis refuses to add the job again, the old entry is still there.
    remove(streams[number], entry)
    return 'OK'
  end

  settlements.fail = function(number, entry, deliveries, job, fields, values, _, ran_ms)
    local notes = {'reason', values[1], 'error', values[2], 'failed_at', whole(now_ms), 'worker', worker,
      'deliveries', whole(deliveries)}
    local told = {'traceback', values[3], 'error_type', values[4], 'fingerprint', values[5],
      'ran_ms', values[1] == 'failed' and whole(ran_ms) or ''}
    for i = 1, #told, 2 do
      if told[i + 1] ~= '' then notes[#notes + 1], notes[#notes + 2] = told[i], told[i + 1] end
    end
    dead_letter(ending.ends, streams[number], entry, job, fields, notes, now_ms)
    if values[6] == '1' then redis.call('PEXPIRE', KEYS['progress:'] .. job, 60000) end
    return 'OK'
  end

  -- Whether this worker holds this job by this lease: the pending entry has the worker and the delivery count, and the entry is
  -- this job's (after a failover an entry id may come again for another job). Returns nil if not, else the mark of its locator, which
  -- says whether a cancel was asked for while it ran, and for how many ms the worker has had it. An entry of this id whose job is
  -- elsewhere by now becomes a dead letter.
  local function owns(stream, entry, deliveries, job)
    local pending = (leases(stream, entry, entry, 1, worker) or {})[1]
    if not pending or pending[4] ~= deliveries then return nil end

    local place = string.match(stream, '[^:]+$')
    local mark, is_located = mark_of(job, place, entry)
    if mark and is_located then return mark, pending[3] end
    local fields = entry_at(stream, entry)
    if not fields or field(fields, 'id') ~= job then return nil end
    if mark then return mark, pending[3] end
    reject(stream, entry, fields, 'no job: the job ' .. job .. ' is elsewhere', now_ms)
    return nil
  end

  -- Which settlements read the entry, as it may be large. For the others the worker's word is enough.
  local kept = ending.kept or {}
  local needs = {retry = true, fail = true, pushes = true}
  local reads = {retry = true, fail = true, pushes = true, done = kept.completed, cancelled = kept.cancelled}

  local function end_one(settlement, number, entry, deliveries, job, values)
    local mark, ran_ms = owns(streams[number], entry, deliveries, job)
    if not mark then return 'LEASE_LOST' end
    local fields = reads[settlement] and entry_at(streams[number], entry) or nil
    if needs[settlement] and not fields then return 'LEASE_LOST' end
    local is_release = settlement == 'release'
    local is_refunded = is_release and values[1] == '1'
    local word = settlements[settlement](number, entry, deliveries, job, fields, values, mark, ran_ms)
    local runs_on = settlement == 'report' or settlement == 'lingers'
    local is_over = is_release or not runs_on and (string.sub(word, 1, 2) == 'OK' or word == 'CANCELLED')
    if is_limited and is_over then
      free_shares({string.match(streams[number], '[^:]+$') .. ' ' .. entry}, is_refunded)
    end
    return word
  end

  -- What the worker says of a job that is done: its unique key and nonce, as its entry may be deleted; and its result.
  local function told_of(job, number, place)
    local key, nonce
    for i = first_young, first_young + young - 1 do
      local known, id = string.match(ARGV[i], '^(%S+) (.*)$')
      if id == job then nonce = known end
    end
    for i = first_unique, first_result - 1, 2 do
      if ARGV[i + 1] == job then key = ARGV[i] end
    end
    local told = {key or '', nonce or ''}
    for i = first_result, first_other - 1, 5 do
      if tonumber(ARGV[i]) == number and tonumber(ARGV[i + 1]) == place then
        for value = 1, 3 do told[2 + value] = ARGV[i + 1 + value] end
      end
    end
    return told
  end

  local function end_each()
    local words, at = {}, first_done
    for number, many in ipairs(done) do
      for i = at, at + many - 1 do
        local told = told_of(ARGV[i + many], number, i - at + 1)
        words[#words + 1] = end_one('done', number, ARGV[i], 1, ARGV[i + many], told)
      end
      at = at + 2 * many
    end
    return words
  end

  local function end_others(words)
    local at = first_other
    while at <= #ARGV do
      local values, many = {}, tonumber(ARGV[at + 5])
      for i = 1, many do values[i] = ARGV[at + 5 + i] end
      words[#words + 1] =
        end_one(ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4], values)
      at = at + 6 + many
    end
  end

  local words = {}
  if in_order then
    if total > 0 then end_all() end
    for i = 1, total do words[i] = 'OK' end
  else
    words = end_each()
  end
  end_others(words)
  if retried > 0 then count('retried', retried) end
  if pushed > 0 then count('pushed', pushed) end
  if replaced > 0 then count('replaced', replaced) end
  if released > 0 then
    count('released', released)
    tell('released ' .. released)
  end
  if earliest then tell('due ' .. whole(earliest)) end
  return table.concat(words, ' ')
end

local function settle(in_order)
  if first_other <= #ARGV or total > 0 and not in_order then return settle_others(in_order) end
  if total == 0 then return '' end
  end_all()
  return 'OK'
end

expect('stream', unpack(streams))
expect('hash', KEYS.jobs)
if is_limited then
  expect('hash', KEYS.limits, KEYS.shares)
  expect('zset', KEYS.turns, KEYS.lines)
end
local restricted = nil
if promotes then
  restricted = restrictions()
  if expect('zset', KEYS.due) then expect('hash', KEYS.delayed) end
end
if turn == 0 or turn > last then -- else it was applied before
  local in_order = all_in_order()
  ending.ends = ends()
  expect_all(in_order)
  answer = settle(in_order)
  tell_others(ending.ends)
end
if turn > last then
  redis.call('HSET', record, lane, ARGV[3] .. ' ' .. answer)
  if first_other <= #ARGV and string.match(lane, '%+%d+$') then
    -- Drop the answers to the steps of the batch before this one.
    local step = 1
    while redis.call('HDEL', record, lane .. '.' .. step) == 1 do step = step + 1 end
  end
end
local reply = {exact_ms * 1000, -1, 0, {0, 0, 0, 0, 0, 0}, -1}
if promotes then
  reply[2] = promote(now_ms, exact_ms)
  local is_paused, turned, sees_to_turns = restricted and restricted.all, 0, false
  if is_limited and not is_paused then
    turned, sees_to_turns = look_at_turns()
    if turned > 0 then tell('released ' .. turned) end -- this worker may have no room for them
  end
  reply[3], reply[4] = prospect(restricted)
  if sees_to_turns then reply[3] = reply[3] + 16 end
  if is_limited and not is_paused then reply[5] = turn_in() end
elseif is_limited and #redis.call('ZRANGEBYSCORE', KEYS.turns, '-inf', whole(now_ms), 'LIMIT', 0, 1) > 0 then
  reply[3] = 8
end
for word in string.gmatch(answer, '%S+') do reply[#reply + 1] = word end
return reply
