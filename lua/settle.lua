#!lua flags=allow-oom
-- settle: settle jobs of a worker: each has ended, runs again later, is handed back, or becomes a dead letter.
--
-- The script works in this order. It reads the worker's record and checks the types of all keys before the first
-- write. It settles the jobs and frees their shares of limits. Then it promotes due jobs, gives waiting lines
-- their turns, and returns facts about the next claim.
--
-- Jobs that are done by their first delivery come in columns, and a few commands check and end all of them. If one
-- of them is not as expected, they are settled one by one, like the other jobs.
--
-- A batch has a number. A batch that is sent again gets the same answer, and is not applied twice. Jobs that push
-- others, and reports, chunks and steps of running jobs, come in a separate batch, to a script without the flag
-- `allow-oom`. So a full server refuses only that batch.
--
-- ARGV[1]  worker        worker id
-- ARGV[2]  lane          the lane of this exchange: a worker may have two exchanges under way
-- ARGV[3]  number        int     of this batch in its lane, greater each time; 0: it is never sent again
-- ARGV[4]  promote       '1': promote due jobs, and look at the next claim
-- ARGV[5]  now_ms        int ms; '' = the server's clock
-- ARGV[6]  high          int     number of jobs of ready:high in columns
-- ARGV[7]  normal        int     the same of ready:normal
-- ARGV[8]  low           int     the same of ready:low
-- ARGV[9]  young         int     number of their pushes that may still be repeated; 'ids': all, each named by its
--                        id alone
-- ARGV[10] uniques       int     number of unique keys of the jobs in columns
-- ARGV[11] results       int     number of jobs in columns with a result or reported progress
-- ARGV[12..] for each stream the entries in columns, then their ids; the pushes; for each unique key: key, job id;
--          for each result: stream 1..3, the number of its entry in the column, keep (ms), word (`completed`,
--          `refused`, `reported`), text (JSON, or the reason). Then for each other job: settlement, stream 1..3,
--          entry, deliveries, job id, number of values, and the values by its settlement:
--          done:      unique key, nonce of its push, keep, word, text, whose child it is ('' for none) ·
--          cancelled: unique key, nonce of its push, keep, word, text, whose child it is ('' for none) ·
--          report:    progress (JSON; the job runs on) ·
--          lingers:   none (ask whether the job may be settled while a thread of its handler runs on) ·
--          emit:      number of the last wait before the run ('' if it has emitted before; then kind and data of
--                     each chunk; the job runs on) ·
--          save:      key ('' for the checkpoint), number, JSON, version of the handler (a step is saved; the job
--                     runs on) ·
--          children:  key of the step, token of the group, how many children in all, version, how many come here
--                     (then these, as for push; the job runs on) ·
--          suspend:   the awaited event (as in the field `waits`), due ('' for no time), version of the handler,
--                     token of a group of children ('' for none), how many these are in all, how many come here,
--                     how many values follow,
--                     names and values of the fields to change (as for retry; then the children, as for push) ·
--          release:   refund ('1': the delivery does not count; '0': it does) ·
--          pushes:    unique key, nonce of its push, keep, word, text, how many jobs it pushes (then these, as for
--                     push) ·
--          retry:     due ('+5000' in ms, or a time in ms), names and values of the fields to change ('' removes
--                     one) ·
--          fail:      reason, error, traceback, error type, fingerprint (each of these three '' for none),
--                     reported ('1': progress), cancels ('1': its children are cancelled)
-- Returns  {now_us, due_in, finds, {unread 1..3, readable 1..3}, turn_in, word, ...}, or one word for the whole
--          call, FENCED or STALE.
--          now_us   the clock
--          due_in   µs until the next delayed job is due; -1: none
--          finds    the sum of include/prospect, plus 16 if this worker should look at the next turn of a line;
--                   without `promote` only 8 if a job in line may start
--          unread   the unread jobs of each stream; readable: the number that one read may fetch
--          turn_in  µs until the next job in line may start; -1: none waits for a time
--          word     the answer to each job in order, or one OK for all:
--          OK          settled as asked. If it pushes jobs, `:` follows, and for each of these 1 if it was added,
--                      or 0 if it was not: another job has its id or holds its unique key, or was replaced by it
--          CANCELLED   it had to run again, or to be handed back, but a cancel was requested; it is gone
--          OVERSIZED   it has more values than a script can add; nothing was written
--          PARTIAL     the call stopped after it had read 1 MB of the jobs that have the ids or keys of the pushed
--                      jobs. `:` follows, and for each pushed job that was checked 0 as after OK, which is final,
--                      or 1 if it may be added. Settle the job again, with these and the unchecked ones. Only
--                      replacements were written, and keys freed that running jobs held until their start
--          SPOILED     the unique key of a job that it pushes has another type; nothing was written. `:` follows,
--                      and the error, with each space and % as %20 and %25
--          EXISTS      a step of this key is saved already; nothing was written
--          RUNNING     its thread runs on, and it counts for the max_concurrency of its name: settle it when the
--                      thread has ended; nothing was written
--          LEASE_LOST  this worker no longer holds the job; nothing was written. Or its entry was deleted while it
--                      ran; if the settlement was a release, its lease is gone now
--          FENCED      the worker's record is gone; nothing was written for any job
--          STALE       a later batch of this lane came before; nothing was written for any job

--- @include now checked expect streams slot kept ends owns_all leases entry_at whole conclude finish keep
--- @include with_history tell tell_others restrictions promote prospect due_in
local worker, lane, turn, promotes = ARGV[1], 'answer:' .. ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local now_ms, exact_ms = now(ARGV[5])
local done = {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])}
local total, only_ids = done[1] + done[2] + done[3], ARGV[9] == 'ids'
local young, uniques, results = only_ids and 0 or tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local first_done = 12
local first_young = first_done + 2 * total
local first_unique = first_young + young
local first_result = first_unique + 2 * uniques
local first_other = first_result + 5 * results

local record = KEYS['worker:'] .. worker
local lease_ms, known = unpack(checked('hash', record, redis.pcall('HMGET', record, 'lease_ms', lane)))
if not lease_ms then return 'FENCED' end
local last, answer = string.match(known or '0 ', '^(%d+) (.*)$')
last = tonumber(last) or 0
if turn > 0 and turn < last then return 'STALE' end
local is_new = turn == 0 or turn > last -- else it was applied before

expect('stream', unpack(streams))
expect('hash', KEYS.jobs)
-- One command looks for keys that few queues have.
local has_more = redis.call('EXISTS', KEYS.shares, KEYS.turns, KEYS.suspended, KEYS.signals) > 0
local is_limited = has_more and redis.call('EXISTS', KEYS.shares, KEYS.turns) > 0
if is_limited then
  expect('hash', KEYS.limits, KEYS.shares)
  expect('zset', KEYS.turns, KEYS.lines)
end
local restricted = promotes and restrictions() or nil
if has_more then expect('zset', KEYS.suspended) end
if promotes and (expect('zset', KEYS.due) or has_more) then expect('hash', KEYS.delayed) end

-- The columns by stream, the ids of all their jobs, and whether this worker holds all of them.
local columns, ids, are_owned = {}, {}, true
local at = first_done
for number, many in ipairs(is_new and done or {}) do
  if many > 0 then
    local stream = streams[number]
    local column = {stream = stream, priority = string.match(stream, '[^:]+$'),
      entries = {unpack(ARGV, at, at + many - 1)}}
    column.ids = {unpack(ARGV, at + many, at + 2 * many - 1)}
    columns[number] = column
    if many == total then ids = column.ids end -- usually all jobs are of one stream
    for i = 1, many < total and many or 0 do ids[#ids + 1] = column.ids[i] end
    are_owned = are_owned and owns_all(worker, stream, column.entries, column.ids)
    at = at + 2 * many
  end
end

-- Check the types of the keys that these jobs need.
local ending = {kept = {}}
local function expect_all()
  local settlements = {}
  local at = first_other
  while at <= #ARGV do
    settlements[ARGV[at]] = true
    if ARGV[at] == 'save' or ARGV[at] == 'suspend' or ARGV[at] == 'children' then
      expect('hash', KEYS['steps:'] .. ARGV[at + 4])
    end
    if ARGV[at] == 'emit' then expect('stream', KEYS['chunks:'] .. ARGV[at + 4]) end
    at = at + 6 + tonumber(ARGV[at + 5])
  end
  if settlements.retry or settlements.suspend or settlements.pushes or settlements.children then
    expect('zset', KEYS.due)
    expect('hash', KEYS.delayed)
  end
  if settlements.suspend then
    expect('zset', KEYS.suspended)
    expect('hash', KEYS.signals)
  end
  if settlements.fail then expect('stream', KEYS.dead) end
  local ends_some = settlements.done or settlements.cancelled or settlements.pushes or settlements.retry
    or settlements.suspend
  if ends_some or total > 0 and (only_ids or young > 0 or not are_owned) then expect('set', slot(now_ms)) end
  if ends_some or total > 0 then ending.kept = kept() end
end

-- Return the notes on a job's run, in the form of kept jobs.
local function ran(deliveries, ran_ms)
  return {'worker', worker, 'deliveries', whole(deliveries), 'ran_ms', whole(ran_ms or 0)}
end

-- Places of jobs whose shares become free. The starts of `refunded` jobs don't count for a rate either.
local freed, refunded = {}, {}

-- End the jobs in columns.
local function end_all()
  local entries, read = {}, {}
  for _, column in pairs(columns) do
    entries[column.stream] = column.entries
    for i, entry in ipairs((is_limited or ending.kept.completed) and column.entries or {}) do
      freed[#freed + 1] = column.priority .. ' ' .. entry
      local fields = ending.kept.completed and entry_at(column.stream, entry)
      if fields then -- read it before it is deleted; a job whose entry was deleted is not kept
        local pending = (leases(column.stream, entry, entry, 1, worker) or {})[1] or {}
        local notes = with_history(ran(1, pending[3]), fields, column.priority .. ' ' .. entry)
        read[#read + 1] = {column.priority, entry, column.ids[i], fields, notes}
      end
    end
  end
  for at = first_result, first_other - 1, 5 do
    local id = columns[tonumber(ARGV[at])].ids[tonumber(ARGV[at + 1])]
    conclude(ending.ends, id, ARGV[at + 3], ARGV[at + 4], ARGV[at + 2])
  end
  for i, processes in ipairs(ending.ends.awaited and redis.call('HMGET', KEYS.waiters, unpack(ids)) or {}) do
    if processes then conclude(ending.ends, ids[i], 'completed') end
  end
  local pushes = only_ids and ids or {unpack(ARGV, first_young, first_unique - 1)}
  finish('completed', entries, ids, {unpack(ARGV, first_unique, first_result - 1)}, pushes, now_ms, not has_more)
  for _, one in ipairs(read) do
    local priority, entry, job, fields, notes = unpack(one)
    keep(ending, 'completed', priority, entry, job, fields, notes, now_ms)
  end
end

-- Settle the other jobs one by one, and also jobs in columns unless this worker holds all of them. Return a word
-- for each. Functions that only these jobs need are defined here; defining one costs 0.1 µs.
local function end_each()
  --- @include owns field finish_one follow_ups tell_waiters limit_of hand_back with due_time pushed_at line delay
  --- @include enqueue remove dead_letter count event note_event signals_of keep_signals wake member add_children
  --- @include groups_of cancel_group emit_chunks keep_reported
  local retried, suspended, released, earliest, pushing = 0, 0, 0, nil, nil
  local settlements = {}

  -- If the entry was not read, use the unique key, nonce and result that the worker sent.
  local function end_as(counter, one)
    local key, nonce, keep_ms, word, text, child_of = unpack(one.values)
    local fields, notes = one.fields or {'unique', key, 'nonce', nonce, 'child_of', child_of or ''},
      ran(one.deliveries, one.ran_ms)
    finish_one(ending, counter, one.stream, one.entry, one.job, fields, now_ms, notes, nil, {keep_ms, word, text})
    return 'OK'
  end

  settlements.done = function(one) return end_as('completed', one) end
  settlements.cancelled = function(one) return end_as('cancelled', one) end

  settlements.pushes = function(one)
    local own_key, word, rest = field(one.fields, 'unique'), nil, nil
    local many = tonumber(one.values[6])
    word, rest, pushing = follow_ups(ARGV, one.at + 6, many, one.job, own_key, now_ms, exact_ms, pushing)
    if word == 'OK' then end_as('completed', one) end
    return word, ':' .. rest
  end

  settlements.report = function(one)
    redis.call('SET', KEYS['progress:'] .. one.job, one.values[1], 'PX', 86400000)
    local processes = ending.ends.awaited and redis.call('HGET', KEYS.waiters, one.job)
    if processes then tell_waiters(ending.ends, one.job, processes) end
    return 'OK'
  end

  settlements.emit = function(one)
    emit_chunks(one.job, one.values[1], ARGV, one.at + 1, one.at + one.many - 1, now_ms)
    local processes = ending.ends.awaited and redis.call('HGET', KEYS.waiters, one.job)
    if processes then tell_waiters(ending.ends, one.job, processes) end
    return 'OK'
  end

  settlements.lingers = function(one)
    local bucket = is_limited and redis.call('HGET', KEYS.shares, one.place)
    local limit = bucket and limit_of(string.match(bucket, '^%S*'))
    return limit and limit.most and 'RUNNING' or 'OK'
  end

  local function may_end() -- a key that few jobs need must not make a release fail
    return pcall(function()
      expect('set', slot(now_ms))
      ending.kept = kept()
    end)
  end

  settlements.release = function(one)
    local stream, entry, deliveries = one.stream, one.entry, math.max(0, one.deliveries - tonumber(one.values[1]))
    local fields = one.mark == 'cancelling' and entry_at(stream, entry)
    if fields and may_end() then -- no claim may reach it: all slots may be busy, or the queue paused
      -- The job continued after a wait, so it has spent no start of the rate that it could give back.
      if field(fields, 'suspended_at') then one.values[1] = '0' end
      finish_one(ending, 'cancelled', stream, entry, one.job, fields, now_ms, {'deliveries', whole(deliveries)})
      return 'CANCELLED'
    end
    local there = hand_back(stream, deliveries, {entry})
    if #there == 0 then return 'LEASE_LOST' end
    if one.values[1] == '0' then note_event({one.place}, event(now_ms, 'interrupted', worker)) end
    released = released + 1
    return 'OK'
  end

  settlements.retry = function(one)
    if one.mark == 'cancelling' then
      one.values = {'', '', field(one.values, 'keep_result')} -- maybe only its worker knows that
      end_as('cancelled', one)
      return 'CANCELLED'
    end
    if #one.fields > 1000 then return 'OVERSIZED' end
    local due_at, changes = due_time(one.values[1], exact_ms), {unpack(one.values, 2)}
    if not field(one.fields, 'queued_at') then
      changes[#changes + 1], changes[#changes + 2] = 'queued_at', pushed_at(one.entry, now_ms)
    end
    local attempt, problem = field(one.fields, 'attempt') or '1', field(changes, 'error')
    local failed = problem and field(changes, 'attempt') and event(now_ms, 'failed', worker, attempt, problem)
    changes = with_history(changes, one.fields, one.place, failed)
    local fields, priority = with(one.fields, changes), string.match(one.stream, '[^:]+$')
    if due_at <= now_ms then
      enqueue(priority, one.job, fields)
    elseif delay(one.job, priority, fields, due_at, line(exact_ms, retried + suspended)) then
      earliest = due_at
    end
    retried = retried + 1
    remove(one.stream, one.entry) -- last: if Redis refuses to add the job again, the old entry is still there
    return 'OK'
  end

  settlements.save = function(one)
    local key, number, value, version = unpack(one.values)
    local steps = KEYS['steps:'] .. one.job
    if key == '' then
      redis.call('HSET', steps, 'saved checkpoint', value)
    elseif redis.call('HGET', steps, key) then
      return 'EXISTS'
    else
      redis.call('HSET', steps, key, number .. ' ' .. whole(now_ms) .. ' done ' .. value)
    end
    if not redis.call('HGET', steps, 'handler version') then
      redis.call('HSET', steps, 'handler version', version)
    end
    return 'OK'
  end

  -- Take the signal that the job waits for, if it is kept.
  local function take_signal(job, name)
    local signals, rest, value = signals_of(job), {}, nil
    for i = 1, #signals, 2 do
      if signals[i] == name then
        value = signals[i + 1]
      else
        rest[#rest + 1], rest[#rest + 2] = signals[i], signals[i + 1]
      end
    end
    if value then keep_signals(job, rest) end
    return value
  end

  -- Add the children that begin at `at`, if there are any. Return values like a settlement.
  local function add_some(one, at, many, key, token, total, version)
    local word, rest = 'OK', ''
    local step = {parent = one.job, key = key, token = token, total = total, version = version}
    word, rest, pushing = add_children(ARGV, at, tonumber(many), step, now_ms, exact_ms, pushing)
    return word, rest ~= '' and ':' .. rest or nil
  end

  settlements.children = function(one)
    local key, token, total, version, many = unpack(one.values)
    return add_some(one, one.at + 5, many, key, token, total, version)
  end

  settlements.suspend = function(one)
    local waits, due, version, token, total, many, values = unpack(one.values)
    if one.mark == 'cancelling' then
      one.values = {'', '', field({unpack(one.values, 8)}, 'keep_result') or field(one.fields, 'keep_result')}
      end_as('cancelled', one)
      return 'CANCELLED'
    end
    if #one.fields > 1000 then return 'OVERSIZED' end
    local key, said = string.match(waits, '^%d+ children (%S+)'), nil
    if token ~= '' then
      local word, rest = add_some(one, one.at + 7 + tonumber(values), many, key, token, total, version)
      if word ~= 'OK' then return word, rest end
      said = rest
    end
    local due_at = due == '' and '+inf' or due_time(due, exact_ms)
    local what = due == '' and waits or waits .. ' ' .. whole(due_at)
    local queued_at = field(one.fields, 'queued_at') or pushed_at(one.entry, now_ms)
    local own = {'queued_at', queued_at, 'steps', '1', 'suspended_at', whole(now_ms), 'waits', what}
    local changes = with({unpack(one.values, 8)}, own)
    local fields, priority = with(one.fields, with_history(changes, one.fields, one.place)),
      string.match(one.stream, '[^:]+$')
    local place_in_line = line(exact_ms, retried + suspended)
    if delay(one.job, priority, fields, due_at, place_in_line, true) and due_at > now_ms then earliest = due_at end
    suspended = suspended + 1
    remove(one.stream, one.entry)
    local steps, name = KEYS['steps:'] .. one.job, string.match(waits, '^%d+ signal ([^# ]+)')
    if not redis.call('HGET', steps, 'handler version') then
      redis.call('HSET', steps, 'handler version', version)
    end
    local how, value = nil, name and take_signal(one.job, name)
    if value then
      how = 'signal'
    elseif token ~= '' and (redis.call('HGET', KEYS['children:'] .. token, 'left') or '0') == '0' then
      how, value = 'children', token
    elseif due_at ~= '+inf' and due_at <= now_ms then
      how = name and 'timeout' or 'slept'
    end
    if how then
      wake(one.job, member(place_in_line, one.job), redis.call('HGET', KEYS.delayed, one.job), how, value, now_ms)
    end
    return 'OK', said
  end

  settlements.fail = function(one)
    local reason, error, traceback, error_type, fingerprint, reported, cancels = unpack(one.values)
    local ran_ms = reason == 'failed' and whole(one.ran_ms) or ''
    local notes = {'reason', reason, 'error', error, 'failed_at', whole(now_ms), 'worker', worker,
      'deliveries', whole(one.deliveries)}
    local known = {'traceback', traceback, 'error_type', error_type, 'fingerprint', fingerprint, 'ran_ms', ran_ms}
    for i = 1, #known, 2 do
      if known[i + 1] ~= '' then notes[#notes + 1], notes[#notes + 2] = known[i], known[i + 1] end
    end
    for _, token in ipairs(cancels == '1' and groups_of(one.job) or {}) do cancel_group(token, false, now_ms) end
    local keeps = dead_letter(ending.ends, one.stream, one.entry, one.job, one.fields, notes, now_ms)
    if reported == '1' and not keeps then keep_reported(one.job, 0) end
    return 'OK'
  end

  -- Read an entry only if the settlement needs it: it may be large.
  local needs = {retry = true, suspend = true, fail = true, pushes = true}
  local stays = {report = true, lingers = true, emit = true, save = true, children = true}
  local reads = {done = ending.kept.completed, cancelled = ending.kept.cancelled}

  -- `at` is where the values begin, if the job is not in a column.
  local function end_one(settlement, number, entry, deliveries, job, values, at, many)
    local stream = streams[number]
    local mark, ran_ms = owns(worker, stream, entry, deliveries, job, now_ms)
    local fields = mark and (needs[settlement] or reads[settlement]) and entry_at(stream, entry) or nil
    if not mark or needs[settlement] and not fields then return 'LEASE_LOST' end
    local place = string.match(stream, '[^:]+$') .. ' ' .. entry
    local word, rest = settlements[settlement]({stream = stream, entry = entry, place = place,
      deliveries = deliveries, job = job,
      values = values, at = at, many = many, fields = fields, mark = mark, ran_ms = ran_ms})
    local runs_on = stays[settlement]
    if is_limited and (settlement == 'release' or not runs_on and (word == 'OK' or word == 'CANCELLED')) then
      local places = settlement == 'release' and values[1] == '1' and refunded or freed
      places[#places + 1] = place
    end
    return word .. (rest or '')
  end

  -- Return the values of the jobs in columns, by id, as for `done`: their entries may be deleted.
  local function said_in_columns()
    local said = {}
    for _, id in ipairs(ids) do said[id] = {'', '', '', '', ''} end
    for i = first_young, first_unique - 1 do
      local nonce, id = string.match(ARGV[i], '^(%S+) (.*)$')
      if said[id] then said[id][2] = nonce end
    end
    for i = first_unique, first_result - 1, 2 do said[ARGV[i + 1]][1] = ARGV[i] end
    for i = first_result, first_other - 1, 5 do
      local id = columns[tonumber(ARGV[i])].ids[tonumber(ARGV[i + 1])]
      said[id] = {said[id][1], said[id][2], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]}
    end
    return said
  end

  local words = {}
  if are_owned and total > 0 then end_all() end
  local said = are_owned and {} or said_in_columns()
  for number = 1, 3 do
    for i, entry in ipairs(columns[number] and columns[number].entries or {}) do
      local id = columns[number].ids[i]
      words[#words + 1] = are_owned and 'OK' or end_one('done', number, entry, 1, id, said[id])
    end
  end
  local at = first_other
  while at <= #ARGV do
    local settlement, number, entry, deliveries, job, many = unpack(ARGV, at, at + 5)
    at = at + 6
    -- Pushed jobs and chunks may be too many for `unpack`.
    local first = ({pushes = 6, emit = 1, children = 5, suspend = 7})[settlement] or many
    if settlement == 'suspend' then first = first + tonumber(ARGV[at + 6]) end
    local values = {unpack(ARGV, at, at + first - 1)}
    words[#words + 1] = end_one(settlement, tonumber(number), entry, tonumber(deliveries), job,
      values, at, tonumber(many))
    at = at + many
  end
  if retried > 0 then count('retried', retried) end
  if suspended > 0 then count('suspended', suspended) end
  if released > 0 then
    count('released', released)
    tell('released ' .. released)
  end
  if earliest then tell('due ' .. whole(earliest)) end
  if pushing then pushing.write() end
  return table.concat(words, ' ')
end

if is_new then
  ending.ends = ends()
  expect_all()
  if first_other <= #ARGV or not are_owned then
    answer = end_each()
  else
    if total > 0 then end_all() end
    answer = total > 0 and 'OK' or ''
  end
  if is_limited then
    --- @include give_up
    give_up(freed, now_ms)
    give_up(refunded, now_ms, true)
  end
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
  reply[2] = promote(now_ms, exact_ms, has_more)
  local looks_at_turns = false
  if is_limited and not (restricted and restricted.all) then
    --- @include take_turns
    local turned, any_due = take_turns(now_ms, math.floor(exact_ms * 1000 + 0.5))
    if turned > 0 then tell('released ' .. turned) end -- this worker may have no room for them
    looks_at_turns, reply[5] = any_due, due_in(KEYS.turns, exact_ms)
  end
  reply[3], reply[4] = prospect(restricted)
  if looks_at_turns then reply[3] = reply[3] + 16 end
elseif is_limited and #redis.call('ZRANGEBYSCORE', KEYS.turns, '-inf', whole(now_ms), 'LIMIT', 0, 1) > 0 then
  reply[3] = 8
end
for word in string.gmatch(answer, '%S+') do reply[#reply + 1] = word end
return reply
