-- A worker's round trip: one transaction that settles jobs and claims others.
--
-- `exchange` works in this order. It enters the queue and checks that the worker's lease still runs. It settles
-- the jobs that the worker has finished, or repeats the answer of a call that was sent before. Then it promotes
-- due jobs, takes turns of limits and claims new jobs, by priority. At the end it says when the worker should look
-- again.
--
-- Two kinds of jobs are settled. A job that is done and left no result is plain: `_end_plain` ends all of them in
-- one statement. `_settle` settles every other job, one by one, as its `do` asks:
--
-- report    store the job's progress; the job runs on
-- emit      add chunks; the job runs on
-- save      save a step or the checkpoint; the job runs on
-- children  add children of a step; the job runs on
-- lingers   ask whether the job may be settled while a thread of its handler runs on
-- release   hand the job back; `refund`: the delivery does not count
-- retry     make the job ready, or delay it
-- suspend   let the job wait in the middle of its handler
-- dead      make the job a dead letter
-- ack       end the job as completed or cancelled; it may push other jobs
--
-- `read` only claims. `recover` returns jobs that a worker holds and has not received.

-- Enter a queue as a worker whose lease runs, or return 'FENCED'. Fencing does not wait for this transaction. A
-- job that the worker still claims is handed back with its other jobs. A job that it settles was still its own.
create function redisjobs_f._enter(q text, worker_id text) returns text language plpgsql as $$
begin
  perform redisjobs_f._join_in(q);
  perform pg_advisory_xact_lock_shared(redisjobs_f._worker_lock(q, worker_id));
  if not exists (select from redisjobs.workers where queue = q and id = worker_id) then
    return 'FENCED';
  end if;
  return '';
end $$;

-- Remember the pushes of jobs that have ended. Each is an id, a space and its nonce.
create function redisjobs_f._remember_ended(q text, keys text[], now_ms bigint) returns void language plpgsql as $$
begin
  case (now_ms + 60000) / 90000 % 3  -- as in `_remember`
  when 0 then insert into redisjobs.ledger_0 select q, 'ended ' || key, '', now_ms + 60000
    from unnest(keys) each(key);
  when 1 then insert into redisjobs.ledger_1 select q, 'ended ' || key, '', now_ms + 60000
    from unnest(keys) each(key);
  else insert into redisjobs.ledger_2 select q, 'ended ' || key, '', now_ms + 60000 from unnest(keys) each(key);
  end case;
end $$;

-- End jobs that are done and left no result, in one step. Return the positions of jobs that the worker no longer
-- holds.
create function redisjobs_f._end_plain(q text, worker_id text, seqs bigint[], named text[], counted integer[],
  now_ms bigint) returns integer[] language plpgsql as $$
declare
  ids text[];
  freed bigint[];
  young text[];
  lost integer[];
  keys text[];
  holders text[];
  waiting record;
begin
  with gone as (
    delete from redisjobs.jobs j using unnest(seqs, named, counted) with ordinality as s(seq, id, deliveries, at)
    -- Only this condition may use an index: the worker's jobs leave many dead entries in the other indexes.
    where j.seq = s.seq
      and (j.queue, j.place, j.worker, j.deliveries, j.id)
        is not distinct from (q, 'running', worker_id, s.deliveries, s.id)
    returning s.at, j.seq, j.id, j.nonce, j.unique_key, j.since_ms
  )
  select array_agg(g.seq), array_agg(g.id), array_agg(g.id || ' ' || coalesce(g.nonce, ''))
    filter (where g.since_ms > now_ms - 60000),
    array_agg(g.unique_key) filter (where g.unique_key <> ''), array_agg(g.id) filter (where g.unique_key <> ''),
    case when count(*) < cardinality(seqs)
      then (select array_agg(at) from generate_subscripts(seqs, 1) all_of(at)
        where at not in (select g.at from gone g)) end
  into freed, ids, young, keys, holders, lost from gone g;
  if keys is not null then
    perform redisjobs_f._free_keys(q, keys, holders);
  end if;
  perform redisjobs_f._give_up(q, freed, false, now_ms);
  if young is not null then
    perform redisjobs_f._remember_ended(q, young, now_ms);
  end if;
  if exists (select from redisjobs.waiters where queue = q) then
    for waiting in delete from redisjobs.waiters w where w.queue = q and w.id = any(ids)
      returning w.id, w.process loop
      perform redisjobs_f._tell('changed', waiting.id, waiting.process);
    end loop;
  end if;
  perform redisjobs_f._count(q, 'completed', coalesce(cardinality(ids), 0));
  return lost;
end $$;

-- Settle one job as its worker asks. `s` has seq, id, deliveries, do (the action), and the values of that action.
-- The query compares the id too, because a place in line alone does not identify a job. A server that lost the
-- last places, such as a replica that took over, gives them again.
create function redisjobs_f._settle(q text, worker_id text, s jsonb, now_ms bigint, out word text, out added jsonb)
  language plpgsql as $$
declare
  job redisjobs.jobs;
  ran jsonb;
begin
  select * into job from redisjobs.jobs j
  where j.seq = (s->>'seq')::bigint  -- only this may use an index
    and (j.queue, j.place, j.worker, j.deliveries, j.id)
      is not distinct from (q, 'running', worker_id, (s->>'deliveries')::integer, s->>'id')
  for update;
  if not found then
    word := 'LEASE_LOST';
    return;
  end if;
  word := 'OK';
  ran := jsonb_build_object('worker', worker_id, 'deliveries', job.deliveries::text,
    'ran_ms', greatest(0, now_ms - job.at_ms)::text);
  case s->>'do'
  when 'report' then
    perform redisjobs_f._report(job, s->>'progress', now_ms);
  when 'emit' then
    perform redisjobs_f._emit(job, (s->>'wait')::integer, s->'chunks', now_ms);
  when 'lingers' then
    if redisjobs_f._is_counted(job) then
      word := 'RUNNING';
    end if;
  when 'release' then
    word := redisjobs_f._release_one(job, (s->>'refund')::boolean, now_ms);
  when 'save' then
    word := redisjobs_f._save(job, s, now_ms);
  when 'children' then
    added := redisjobs_f._add_children(job, s, now_ms);
  when 'retry', 'suspend' then
    if job.cancelling then
      perform redisjobs_f._finish(job, 'cancelled', ran, now_ms,
        case when s->'changes'->>'keep_result' <> ''
        then jsonb_build_object('keep_ms', (s->'changes'->>'keep_result')::bigint) end);
      word := 'CANCELLED';
    elsif s->>'do' = 'suspend' then
      if s ? 'group' then
        added := redisjobs_f._add_children(job, s, now_ms);
      end if;
      perform redisjobs_f._suspend(job, s, now_ms);
    else
      perform redisjobs_f._retry(job, s, now_ms);
    end if;
  when 'dead' then
    if s ? 'cancels' then
      perform redisjobs_f._cancel_groups(q, array(select t.value from redisjobs.steps t
        where t.queue = q and t.id = job.id and t.how = 'children' order by t.value));
    end if;
    if s ? 'reported' then
      perform redisjobs_f._keep_reported(job, 0, now_ms);
    end if;
    perform redisjobs_f._dead_letter(job, ran || (s->'notes')
      || case when s->'notes'->>'reason' = 'failed' then '{}'::jsonb else '{"ran_ms": ""}' end, now_ms);
  else  -- ack
    if s ? 'pushes' then
      select jsonb_agg(redisjobs_f._push_with(job, value, now_ms) order by at) into added
      from jsonb_array_elements(s->'pushes') with ordinality each(value, at);
    end if;
    if s ? 'reported' then
      perform redisjobs_f._keep_reported(job, 0, now_ms);
    end if;
    perform redisjobs_f._finish(job, case when s ? 'cancelled' then 'cancelled' else 'completed' end, ran, now_ms,
      s->'result', job.since_ms > now_ms - 60000);
  end case;
end $$;

create function redisjobs_f._release_one(job redisjobs.jobs, refund boolean, now_ms bigint)
  returns text language plpgsql as $$
declare
  counted integer := greatest(0, job.deliveries - refund::integer);
begin
  if job.cancelling then
    perform redisjobs_f._finish(job, 'cancelled', jsonb_build_object('deliveries', counted::text), now_ms);
    return 'CANCELLED';
  end if;
  if not refund then
    job.history := redisjobs_f._add_line(job.history, redisjobs_f._event(now_ms, 'interrupted', job.worker));
  end if;
  perform redisjobs_f._hand_back(job, counted, now_ms);
  return 'OK';
end $$;

create function redisjobs_f._retry(job redisjobs.jobs, s jsonb, now_ms bigint) returns void language plpgsql as $$
declare
  changes constant jsonb := s->'changes';
begin
  if changes->>'error' <> '' and changes ? 'attempt' then
    job.history := redisjobs_f._add_line(job.history, redisjobs_f._event(now_ms, 'failed', job.worker,
      coalesce(job.extra->>'attempt', '1'), changes->>'error'));
  end if;
  perform redisjobs_f._change_fields(job, changes, now_ms);
  perform redisjobs_f._enqueue(job.queue, job.seq, redisjobs_f._due(s, now_ms), now_ms);
  perform redisjobs_f._count(job.queue, 'retried');
end $$;

-- Change fields of a job that runs again. The value '' removes a field.
create function redisjobs_f._change_fields(job redisjobs.jobs, changes jsonb, now_ms bigint)
  returns void language plpgsql as $$
declare
  fields jsonb := jsonb_build_object('queued_at', least(job.since_ms, now_ms)::text) || coalesce(job.extra, '{}');
begin
  update redisjobs.jobs set extra = redisjobs_f._with(fields,
    changes - array['limit_key', 'parameters', 'name', 'unique']),
    limit_key = case when changes ? 'limit_key' then nullif(changes->>'limit_key', '') else job.limit_key end,
    unique_key = case when changes ? 'unique' then nullif(changes->>'unique', '') else job.unique_key end,
    history = job.history
  where seq = job.seq;
end $$;

-- Add a job that another job pushes as it ends. Return whether it was added.
create function redisjobs_f._push_with(parent redisjobs.jobs, job jsonb, now_ms bigint)
  returns boolean language plpgsql as $$
declare
  answer text;
begin
  if exists (select from redisjobs.jobs j where j.queue = parent.queue and j.id = job->>'id'
    and j.place not in ('completed', 'cancelled')) then
    return false;
  end if;
  select a.word into answer from redisjobs_f._add(parent.queue, job, now_ms, parent.id) a;
  if answer <> 'OK' then
    return false;
  end if;
  perform redisjobs_f._forget_end(parent.queue, job->>'id');  -- an earlier run may have pushed this id
  return true;
end $$;

-- Settle jobs that are locked. Return for each, in order, a word, or a word and the list of added jobs. A job
-- whose settlement would wait for another transaction is BUSY: a transaction of an application may stay open for
-- long.
create function redisjobs_f._settle_all(q text, worker_id text, others jsonb, now_ms bigint)
  returns jsonb language plpgsql as $$
declare
  words jsonb[];
begin
  begin  -- all in one subtransaction: each takes a transaction number, and numbers are scarce
    perform redisjobs_f._hurry('20ms');
    words := redisjobs_f._settle_each(q, worker_id, others, false, now_ms);
  exception when program_limit_exceeded or data_exception or statement_too_complex or lock_not_available then
    perform redisjobs_f._hurry('1ms');
    words := redisjobs_f._settle_each(q, worker_id, others, true, now_ms);
  end;
  perform redisjobs_f._hurry();
  perform redisjobs_f._give_up_settled(q, others, words, now_ms);
  perform redisjobs_f._tell_released(q, (
    select count(*)::integer from jsonb_array_elements(others) with ordinality each(value, at)
    where value->>'do' = 'release' and words[at] = '"OK"'));
  return to_jsonb(words);
end $$;

-- Settle jobs one by one; jobs that push others come first. With `apart`, a job that can't be written does not
-- stop the others.
create function redisjobs_f._settle_each(q text, worker_id text, others jsonb, apart boolean, now_ms bigint)
  returns jsonb[] language plpgsql as $$
declare
  s record;
  words jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(others)]);
  done record;
begin
  for s in select value, at from jsonb_array_elements(others) with ordinality each(value, at)
    order by not value ? 'pushes', at
  loop
    if apart then
      select * into done from redisjobs_f._settle_apart(q, worker_id, s.value, now_ms);
    else
      select * into done from redisjobs_f._settle(q, worker_id, s.value, now_ms);
    end if;
    words[s.at] := case when done.added is null then to_jsonb(done.word)
      else jsonb_build_array(done.word, done.added) end;
  end loop;
  return words;
end $$;

create function redisjobs_f._settle_apart(q text, worker_id text, s jsonb, now_ms bigint, out word text,
  out added jsonb) language plpgsql as $$
begin
  select done.word, done.added into word, added from redisjobs_f._settle(q, worker_id, s, now_ms) done;
exception
  when lock_not_available then
    word := 'BUSY';
    added := null;
  when program_limit_exceeded or data_exception or statement_too_complex then
    word := 'OVERSIZED';
    added := null;
end $$;

-- Free the shares of jobs that no longer run, given the worker's settlements and the answers to them.
create function redisjobs_f._give_up_settled(q text, others jsonb, words jsonb[], now_ms bigint)
  returns void language plpgsql as $$
declare
  refunded bigint[];
  spent bigint[];
begin
  select array_agg(s.seq) filter (where s.refund), array_agg(s.seq) filter (where not s.refund)
    into refunded, spent from (
    select (value->>'seq')::bigint as seq, value->>'do' = 'release' and (value->>'refund')::boolean as refund
    from jsonb_array_elements(others) with ordinality each(value, at)
    where value->>'do' not in ('report', 'emit', 'lingers', 'save', 'children')
      and case jsonb_typeof(words[at]) when 'array' then words[at]->>0
        else words[at] #>> '{}' end in ('OK', 'CANCELLED')) s;
  perform redisjobs_f._give_up(q, spent, false, now_ms);
  perform redisjobs_f._give_up(q, refunded, true, now_ms);
end $$;

create function redisjobs_f._tell_released(q text, number integer) returns void language plpgsql as $$
begin
  if number > 0 then
    perform redisjobs_f._count(q, 'released', number);
    perform redisjobs_f._tell('released', number::text);
  end if;
end $$;

-- Return where claims may begin: before floors[rank + 1] no job of that rank is ready. No open transaction can
-- still add a job before the place `mark`; see `Floors` in working.py.
create function redisjobs_f._floors(q text, floors bigint[], mark bigint) returns bigint[] language plpgsql as $$
declare
  first bigint;
begin
  for wanted in 0..2 loop
    select seq into first from redisjobs.jobs
    where queue = q and rank = wanted::smallint and place = 'ready'
      and seq >= floors[wanted + 1] order by seq limit 1;
    floors[wanted + 1] := greatest(floors[wanted + 1], least(coalesce(first, mark + 1), mark + 1));
  end loop;
  return floors;
end $$;

-- Note the last place in line, `sequence`, and the transactions that may still add jobs up to it. Those
-- transactions are older than this one, which is `until`. They have all ended once `oldest` reaches `until`.
--
-- Call this before the transaction writes. Then every transaction that took a place up to `sequence` has a lower
-- number than this one. The snapshot's xmax can't replace `until`: it only follows the last transaction that
-- ended, and an open transaction may be newer.
--
-- If transactions before `wanted` are still open, `oldest` only counts transactions that took a place in line.
-- Other transactions may have written elsewhere, and may stay open for long.
create function redisjobs_f._mark(wanted bigint, out sequence bigint, out until bigint, out oldest bigint)
  language plpgsql as $$
begin
  select last_value - (not is_called)::integer into sequence from redisjobs.line;
  until := pg_current_xact_id()::text::bigint;
  oldest := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
  if oldest < wanted then
    oldest := least(until, redisjobs_f._oldest_in_line(until));
  end if;
end $$;

-- Return the oldest open transaction that has taken a place in line. Null: there is none. 0: one of them has no
-- number yet. Such a transaction keeps a lock on the sequence until it ends, even if it is prepared. Call this
-- seldom, because reading pg_locks blocks the lock table.
create function redisjobs_f._oldest_in_line(now_is bigint) returns bigint language plpgsql as $$
begin
  return (
    with locks as materialized (select * from pg_locks where granted and locktype in ('relation', 'transactionid'))
    -- pg_locks has the lower 32 bits of a number, which may be greater than this transaction's.
    select min(coalesce(now_is - ((now_is - x.transactionid::text::bigint + 2147483648) & 4294967295) + 2147483648,
      0))
    from locks l left join locks x on x.locktype = 'transactionid' and x.mode = 'ExclusiveLock'
      and x.virtualtransaction = l.virtualtransaction and x.pid is not distinct from l.pid
    where l.locktype = 'relation' and l.mode = 'RowExclusiveLock' and l.relation = 'redisjobs.line'::regclass
      and l.database = (select oid from pg_database where datname = current_database()));
end $$;

-- Identify a server: the answer differs between servers, and changes when a server restarts. Floors of another
-- server don't hold here, because this server may have lost the last places in line, and gives them again. A new
-- session does not show this, because a pooler hides new sessions.
create function redisjobs_f._server() returns bigint language plpgsql stable as $$
begin
  return (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint;
end $$;

-- Return the facts that a claim reports besides its jobs: when to look again, and whether more jobs wait.
create function redisjobs_f._outlook(q text, wanted integer, is_full boolean, next_due bigint, is_paused boolean,
  is_restricted boolean, starts bigint[], due_from bigint, now_ms bigint) returns jsonb language plpgsql as $$
declare
  turn bigint;
  waits bigint;
begin
  select turn_ms into turn from redisjobs.buckets where queue = q and turn_ms >= due_from order by turn_ms limit 1;
  if wanted > 0 then
    select at_ms into waits from redisjobs.jobs where queue = q and place = 'alone' order by at_ms limit 1;
  end if;
  return jsonb_strip_nulls(jsonb_build_object('due', next_due - now_ms, 'turn', turn - now_ms,
    'waits', now_ms - waits,
    'paused', nullif(is_paused, false), 'restricted', nullif(is_restricted, false),
    'more', case when is_full and not is_paused then nullif(redisjobs_f._any_waits(q, starts), false) end));
end $$;

-- Settle jobs of a worker, and claim up to `wanted` others. If `wanted` is null, claim and promote none.
--
-- seqs, named, counted  places, ids and deliveries of jobs that are done and left no result
-- others                jobs to settle one by one, see `_settle`
-- on_lane, sent         a number that was sent before in this lane gets the same answer
-- floors, of_server     where claims may begin, as learned on that server
-- until                 the transaction that a mark waits for, see `_mark`
--
-- Each row is a job. The last row has only `meta`.
create function redisjobs_f.exchange(q text, given_ms bigint, worker_id text, on_lane integer, sent bigint,
  seqs bigint[], named text[], counted integer[], others jsonb, wanted integer, most_bytes bigint,
  max_deliveries integer, idle boolean, starts bigint[], floors bigint[], due_from bigint, mark bigint,
  of_server bigint, until bigint)
  returns table (meta text, seq bigint, deliveries integer, id text, name text, parameters text, extra text,
    nonce text, unique_key text, limit_key text, history text, since_ms bigint, rank smallint)
  language plpgsql as $$
#variable_conflict use_column
declare
  entered text;
  now_ms bigint;
  last_sent bigint;
  last_answer text;
  settled text := '';
  facts jsonb := '{}';
  rules record;
  next_due bigint;
  runs_nothing boolean := false;
  is_careful boolean;
  room integer := wanted;
  looks integer := 500;  -- jobs to look at; if none is left, there may be more jobs
  full_ones text[] := '{}';
  turned bigint[] := '{}';
  turned_ranks smallint[];
  turned_here bigint[];
  found_jobs record;
  found_rows integer;
  ended jsonb := '[]';
  marked jsonb;
begin
  if sent is not null then
    perform redisjobs_f._lock_lane(q, worker_id, on_lane);
  end if;
  entered := redisjobs_f._enter(q, worker_id);
  -- Read the clock after waiting for other transactions, so that no turn is earlier than the last claim.
  now_ms := redisjobs_f._now(given_ms);
  if entered <> '' then
    meta := redisjobs_f._answer(to_jsonb(entered));
    return next;
    return;
  end if;
  if of_server <> redisjobs_f._server() then
    starts := array[0, 0, 0];
    floors := array[0, 0, 0];
    due_from := 0;
    mark := case when mark is not null then 0 end;
  end if;
  if mark is not null then
    marked := to_jsonb(redisjobs_f._mark(until));
  end if;
  if sent is not null then
    select known.number, known.answer into last_sent, last_answer
    from redisjobs_f._last_turn(q, worker_id, on_lane) as known(number, answer);
  end if;
  if sent < last_sent then
    meta := redisjobs_f._answer('"LATE"');
    return next;
    return;
  elsif sent = last_sent then
    settled := last_answer;
  elsif seqs <> '{}' or others is not null then
    settled := redisjobs_f._settled(q, worker_id, seqs, named, counted, others, now_ms);
    if sent is not null then
      perform redisjobs_f._note_turn(q, worker_id, on_lane, sent, settled, now_ms);
    end if;
  end if;

  if wanted is null then
    facts := jsonb_build_object('turns', exists (select from redisjobs.buckets
      where queue = q and turn_ms >= due_from and turn_ms <= now_ms));
  else
    select * into rules from redisjobs_f._rules(q);
    next_due := redisjobs_f._promote(q, due_from, now_ms);
    if not rules.is_paused then
      select * into turned, turned_ranks from redisjobs_f._take_turns(q, due_from, rules.names, now_ms);
      if idle then
        perform seq from redisjobs.jobs where queue = q and worker = worker_id
          and place = 'running' order by seq limit 1;
        runs_nothing := not found;
      end if;
      is_careful := rules.names <> '{}' or rules.has_limits or turned <> '{}'
        or redisjobs_f._any_returned(q);
      for wanted_rank in 0..2 loop
        turned_here := case when turned = '{}' then '{}' else array(
          select t.seq from unnest(turned, turned_ranks) t(seq, rank) where t.rank = wanted_rank) end;
        if room <= 0 then
          perform redisjobs_f._leave_lines(turned_here, '{}', now_ms);
        elsif is_careful then
          select * into found_jobs from redisjobs_f._claim_each(q, worker_id, wanted_rank::smallint, room,
            floors[wanted_rank + 1],
            most_bytes, max_deliveries, runs_nothing and room = wanted, false, rules.names,
            rules.has_limits, turned_here, looks,
            now_ms, full_ones);
          return query select null::text, j.seq, j.deliveries, j.id, j.name, j.parameters, j.extra::text,
            j.nonce, j.unique_key,
            j.limit_key, j.history, j.since_ms, j.rank from unnest(found_jobs.claimed) j;
          ended := ended || found_jobs.ended;
          full_ones := found_jobs.full_ones;
          looks := looks - found_jobs.looked;
          room := case when found_jobs.is_alone then 0 else room - cardinality(found_jobs.claimed) end;
        else
          return query select null::text, j.seq, j.deliveries, j.id, j.name, j.parameters, j.extra::text,
            j.nonce, j.unique_key,
            j.limit_key, j.history, j.since_ms, j.rank
            from redisjobs_f._claim_new(q, worker_id, wanted_rank::smallint, room,
            starts[wanted_rank + 1], floors[wanted_rank + 1], most_bytes, now_ms) j;
          get diagnostics found_rows = row_count;
          room := room - found_rows;
        end if;
      end loop;
    end if;
    facts := redisjobs_f._outlook(q, wanted, room <= 0 or looks <= 0, next_due, rules.is_paused,
      rules.is_paused or rules.has_held or rules.has_limits or rules.names <> '{}', starts, due_from, now_ms);
    if room <= 0 and turned <> '{}' and facts ? 'more' then
      perform redisjobs_f._tell('released', cardinality(turned)::text);
    end if;
    if ended <> '[]' then
      facts := facts || jsonb_build_object('ended', ended);
    end if;
  end if;
  if mark is not null then
    facts := facts || jsonb_build_object('floors', redisjobs_f._floors(q, floors, mark), 'mark', marked);
  end if;
  if redisjobs_f._count_children(q, now_ms) and room > 0 and not facts ? 'paused' then
    facts := facts || '{"more": true}';
  end if;
  if others is null and ended = '[]' then  -- losing this transaction would only repeat work
    perform set_config('synchronous_commit', 'off', true);
  end if;
  meta := redisjobs_f._answer(facts || jsonb_build_object('settled', settled, 'server', redisjobs_f._server(),
    'now', redisjobs_f._clock(given_ms)));
  return next;
end $$;

-- Settle jobs and return the answer as JSON: the words for `others`, and the positions of plain jobs that the
-- worker has lost. Return '' if all plain jobs are done and there are no others.
create function redisjobs_f._settled(q text, worker_id text, seqs bigint[], named text[], counted integer[],
  others jsonb, now_ms bigint) returns text language plpgsql as $$
declare
  words jsonb;
  lost integer[];
begin
  if others is not null then
    perform redisjobs_f._lock_jobs(seqs || array(select (value->>'seq')::bigint
      from jsonb_array_elements(others)));
    words := redisjobs_f._settle_all(q, worker_id, others, now_ms);
  end if;
  if seqs <> '{}' and redisjobs_f._ends_plainly(q) then
    lost := redisjobs_f._end_plain(q, worker_id, seqs, named, counted, now_ms);
  elsif seqs <> '{}' then
    lost := redisjobs_f._end_each(q, worker_id, seqs, named, counted, now_ms);
  end if;
  return case when words is null and lost is null then ''
    else jsonb_strip_nulls(jsonb_build_object('words', words, 'lost', lost))::text end;
end $$;

-- Return whether finished jobs can end in one step. They can't if the queue keeps completed jobs.
create function redisjobs_f._ends_plainly(q text) returns boolean language plpgsql as $$
begin
  return not exists (select from redisjobs.settings where queue = q and name = 'retention'
    and value::jsonb ? 'completed');
end $$;

create function redisjobs_f._end_each(q text, worker_id text, seqs bigint[], named text[], counted integer[],
  now_ms bigint) returns integer[] language plpgsql as $$
declare
  words jsonb;
begin
  words := redisjobs_f._settle_all(q, worker_id, (
    select jsonb_agg(jsonb_build_object('seq', seqs[at], 'id', named[at], 'deliveries', counted[at], 'do', 'ack')
      order by at)
    from generate_subscripts(seqs, 1) at), now_ms);
  return (select array_agg(at::integer) from jsonb_array_elements_text(words) with ordinality each(word, at)
    where word <> 'OK');
end $$;

-- Lease up to `most` new jobs of each priority. `meta` is null if there are none. See `exchange` for the rows.
create function redisjobs_f.read(q text, given_ms bigint, worker_id text, most integer, most_bytes bigint,
  starts bigint[], floors bigint[], of_server bigint)
  returns table (meta text, seq bigint, deliveries integer, id text, name text, parameters text, extra text,
    nonce text, unique_key text, limit_key text, history text, since_ms bigint, rank smallint)
  language plpgsql as $$
#variable_conflict use_column
declare
  entered text := redisjobs_f._enter(q, worker_id);
  now_ms bigint := redisjobs_f._now(given_ms);
  rules record;
  full_ones text[] := '{}';
  found_jobs record;
  any_new boolean := false;
begin
  if of_server <> redisjobs_f._server() then
    starts := array[0, 0, 0];
    floors := array[0, 0, 0];
  end if;
  if entered = '' then
    select * into rules from redisjobs_f._rules(q);
    for wanted_rank in 0..2 loop
      exit when rules.is_paused;
      continue when not redisjobs_f._any_ready(q, wanted_rank::smallint, floors[wanted_rank + 1]);
      any_new := true;
      if rules.names <> '{}' or rules.has_limits then
        select * into found_jobs from redisjobs_f._claim_each(q, worker_id, wanted_rank::smallint, most,
          floors[wanted_rank + 1],
          most_bytes, 2, false, true, rules.names, rules.has_limits, '{}', 500, now_ms, full_ones);
        full_ones := found_jobs.full_ones;
        return query select null::text, j.seq, j.deliveries, j.id, j.name, j.parameters, j.extra::text,
          j.nonce, j.unique_key,
          j.limit_key, j.history, j.since_ms, j.rank from unnest(found_jobs.claimed) j;
      else
        return query select null::text, j.seq, j.deliveries, j.id, j.name, j.parameters, j.extra::text,
          j.nonce, j.unique_key,
          j.limit_key, j.history, j.since_ms, j.rank
          from redisjobs_f._claim_new(q, worker_id, wanted_rank::smallint, most,
          starts[wanted_rank + 1], floors[wanted_rank + 1], most_bytes, now_ms) j;
      end if;
    end loop;
    if any_new and rules.has_limits then
      perform redisjobs_f._tell_turn(q);
    end if;
    perform redisjobs_f._count_children(q, now_ms);
  end if;
  meta := redisjobs_f._answer(case when entered <> '' then to_jsonb(entered) when any_new
    then '"OK"' else 'null' end);
  return next;
end $$;

-- Return jobs that the worker holds according to the database, and that are not in `held` and `named` (their ids).
-- Only jobs that it claimed at least `older_ms` ago count, from a place on. A job that may not start is handed
-- back, parked, put in a line or ended. See `exchange` for the rows. `meta` has the first place of all the
-- worker's jobs, the jobs that ended, and the number of jobs looked at.
create function redisjobs_f.recover(q text, given_ms bigint, worker_id text, held bigint[], named text[],
  older_ms bigint, from_seq bigint)
  returns table (meta text, seq bigint, deliveries integer, id text, name text, parameters text, extra text,
    nonce text, unique_key text, limit_key text, history text, since_ms bigint, rank smallint)
  language plpgsql as $$
#variable_conflict use_column
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  entered text := redisjobs_f._enter(q, worker_id);
  missed redisjobs.jobs[];
  looked integer := 0;
  ended jsonb := '[]';
begin
  if entered = '' then
    select array_agg(j order by j.rank, j.seq) into missed from (
      select * from redisjobs.jobs
      where queue = q and worker = worker_id and place = 'running' and seq >= from_seq
        and at_ms <= now_ms - older_ms
        and not (seq = any(held) and exists (select from unnest(held, named) h(seq, id)
          where h.seq = jobs.seq and h.id = jobs.id))
      order by seq limit 100 for update
    ) j;
    looked := coalesce(cardinality(missed), 0);
    if missed is not null and exists (select from redisjobs.rules where queue = q) then
      select s.startable, s.ended into missed, ended from redisjobs_f._startable(q, missed, now_ms) s;
    end if;
    return query select null::text, j.seq, j.deliveries, j.id, j.name, j.parameters, j.extra::text,
      j.nonce, j.unique_key,
      j.limit_key, j.history, j.since_ms, j.rank from unnest(missed) j;
  end if;
  perform redisjobs_f._count_children(q, now_ms);
  meta := redisjobs_f._answer(jsonb_build_object('word', entered, 'looked', looked, 'ended', ended, 'first', (
    select min(j.seq) from redisjobs.jobs j
    where j.queue = q and j.worker = worker_id and j.place = 'running' and j.seq >= from_seq)));
  return next;
end $$;

-- Return the jobs of a worker that may start. Hand back, park or end the others.
create function redisjobs_f._startable(q text, jobs redisjobs.jobs[], now_ms bigint,
  out startable redisjobs.jobs[], out ended jsonb) language plpgsql as $$
declare
  rules record;
  job redisjobs.jobs;
  counted integer;
begin
  startable := '{}';
  ended := '[]';
  select * into rules from redisjobs_f._rules(q);
  foreach job in array jobs loop
    counted := greatest(0, job.deliveries - 1);
    if job.cancelling then
      perform redisjobs_f._give_up(q, array[job.seq], true, now_ms);
      perform redisjobs_f._finish(job, 'cancelled', jsonb_build_object('deliveries', counted::text), now_ms);
      ended := ended || jsonb_build_array(jsonb_build_array(job.id, 'CANCELLED'));
    elsif rules.is_paused or job.name = any(rules.names) then
      perform redisjobs_f._give_up(q, array[job.seq], true, now_ms);
      perform redisjobs_f._hand_back(job, counted, now_ms);
      if job.name = any(rules.names) then
        perform redisjobs_f._park(job, now_ms);
      end if;
    else  -- if its name has a limit, the job already has its share
      startable := startable || job;
    end if;
  end loop;
end $$;
