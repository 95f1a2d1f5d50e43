-- An operator changes jobs: cancels, requeues or deletes them. A change is JSON: `do` (Cancel, Requeue, Delete,
-- Hold, Unhold) and `id`. A requeue may also have:
--
-- at or after  when the job is due, ms
-- parameters, limit_key, unique
-- key          the job's place in line
-- ended        whether ended jobs that were kept count, too
-- from_step    the step to go back to; '' for all steps
-- skips        whether to leave the job out if it would have to wait for another transaction

-- Make one change. Return a word. The lock timeout is short, because the transaction of a push may have locked the
-- job.
create function redisjobs_f.change(q text, given_ms bigint, change jsonb) returns text
language plpgsql set lock_timeout = '2s' as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  word text;
begin
  perform redisjobs_f._need_read_committed();
  word := redisjobs_f._change(q, change, now_ms);
  perform redisjobs_f._count_children(q, now_ms);
  return redisjobs_f._answer(to_jsonb(word));
end $$;

-- Make several changes, in order. Return a word for each. The lock timeout is short here too, because jobs that
-- are locked already can't be settled meanwhile. BUSY: another transaction has locked the job; the other changes
-- are made.
create function redisjobs_f.change_many(q text, given_ms bigint, changes jsonb) returns text
language plpgsql set lock_timeout = '2s' as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  ids constant text[] := array(select value->>'id' from jsonb_array_elements(changes));
  words jsonb := '[]';
  made jsonb;
  next integer := 0;
  change jsonb;
  free text[];
  busy text[];
begin
  perform redisjobs_f._need_read_committed();
  if exists (select from jsonb_array_elements(changes) where value->>'do' in ('Hold', 'Unhold')) then
    perform redisjobs_f._share(q);
  end if;
  begin
    words := redisjobs_f._change_each(q, changes, now_ms);
  exception when lock_not_available then
    free := array(select j.id from redisjobs.jobs j where j.queue = q and j.place not in ('completed', 'cancelled')
      and j.id = any (ids) order by j.seq for update skip locked);
    busy := array(select j.id from redisjobs.jobs j where j.queue = q and j.place not in ('completed', 'cancelled')
      and j.id = any (ids) and j.id <> all (free));
    made := redisjobs_f._change_each(q, (select coalesce(jsonb_agg(c.value order by c.n), '[]')
      from jsonb_array_elements(changes) with ordinality c (value, n) where c.value->>'id' <> all (busy)), now_ms);
    for change in select value from jsonb_array_elements(changes) loop
      if change->>'id' = any (busy) then
        words := words || '["BUSY"]';
      else
        words := words || jsonb_build_array(made->next);
        next := next + 1;
      end if;
    end loop;
  end;
  perform redisjobs_f._count_children(q, now_ms);
  return redisjobs_f._answer(words);
end $$;

-- Make several changes, in order. Return a word for each.
create function redisjobs_f._change_each(q text, changes jsonb, now_ms bigint) returns jsonb language plpgsql as $$
declare
  words jsonb := '[]';
  seqs bigint[];
  change jsonb;
begin
  seqs := redisjobs_f._lock_by_id(q, array(select value->>'id' from jsonb_array_elements(changes)));
  perform redisjobs_f._lock_beats(q, array(select value->>'id' from jsonb_array_elements(changes)
    where value->>'do' = 'Cancel'));
  if exists (select from jsonb_array_elements(changes) where value->>'do' = 'Requeue') then
    perform redisjobs_f._lock_groups_of(q, seqs);
  end if;
  for change in select value from jsonb_array_elements(changes) loop
    words := words || to_jsonb(redisjobs_f._change(q, change, now_ms));
  end loop;
  return words;
end $$;

-- Lock the jobs with these ids that have not ended, in the order of their places in line, and return their places.
create function redisjobs_f._lock_by_id(q text, ids text[]) returns bigint[] language plpgsql as $$
begin
  return array(select j.seq from redisjobs.jobs j
    where j.queue = q and j.place not in ('completed', 'cancelled') and j.id = any (ids)
      order by j.seq for update);
end $$;

-- Lock the leases of the workers that run these jobs.
create function redisjobs_f._lock_beats(q text, job_ids text[]) returns void language plpgsql as $$
begin
  perform from redisjobs.beats b where b.queue = q and b.id = any (array(
    select j.worker from redisjobs.jobs j
    where j.queue = q and j.id = any (job_ids) and j.place not in ('completed', 'cancelled')
      and j.place is not distinct from 'running'))
  order by b.id for update;
end $$;

-- Make a change once. A call that is repeated because its answer was lost gets the same answer. It may even wait
-- for the first call.
create function redisjobs_f._change(q text, change jsonb, now_ms bigint) returns text language plpgsql as $$
declare
  word text := redisjobs_f._remembered(q, 'change', change->>'nonce', now_ms);
begin
  if word is not null then
    return word;
  end if;
  word := case change->>'do'
    when 'Cancel' then redisjobs_f._cancel(q, change->>'id', now_ms)
    when 'Requeue' then redisjobs_f._requeue(q, change, now_ms)
    when 'Delete' then redisjobs_f._delete(q, change->>'id', now_ms)
    when 'Hold' then redisjobs_f._hold(q, change->>'id', now_ms)
    when 'Unhold' then redisjobs_f._unhold(q, change->>'id', now_ms)
  end;
  if word = 'NOT_FOUND' then
    return coalesce(redisjobs_f._remembered(q, 'change', change->>'nonce', now_ms), word);
  elsif change ? 'nonce' and word in ('CANCELLED', 'CANCELLING', 'OK', 'INDEPENDENT') then
    perform redisjobs_f._remember(q, 'change', change->>'nonce', word, now_ms + 60000);
  end if;
  return word;
end $$;

-- Lock and return the job with this id that has not ended, else the last ended job that is kept.
create function redisjobs_f._locked(q text, of_id text) returns redisjobs.jobs language plpgsql as $$
declare
  job redisjobs.jobs;
begin
  select * into job from redisjobs.jobs j
    where j.queue = q and j.id = of_id and j.place not in ('completed', 'cancelled') for update;
  if job.seq is null then
    select * into job from redisjobs.jobs j
      where j.queue = q and j.id = of_id and j.place in ('completed', 'cancelled')
      order by j.seq desc limit 1 for update;
  end if;
  return job;
end $$;

-- Cancel a waiting job, or ask the worker that runs it to cancel it. Return CANCELLED, CANCELLING, DEAD or
-- NOT_FOUND.
create function redisjobs_f._cancel(q text, of_id text, now_ms bigint) returns text language plpgsql as $$
declare
  job constant redisjobs.jobs := redisjobs_f._locked(q, of_id);
begin
  if job.seq is null or job.place in ('completed', 'cancelled') then
    return 'NOT_FOUND';
  elsif job.place = 'dead' then
    return 'DEAD';
  elsif job.place <> 'running' then
    delete from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = of_id;
    perform redisjobs_f._finish(job, 'cancelled', '{}', now_ms);
    return 'CANCELLED';
  end if;
  update redisjobs.jobs j set cancelling = true,
    history = redisjobs_f._add_line(j.history, redisjobs_f._event(now_ms, 'cancel-asked', j.worker))
    where j.seq = job.seq;
  update redisjobs.beats b set cancels = b.cancels + 1 where b.queue = q and b.id = job.worker;
  perform redisjobs_f._tell('cancel', of_id);
  return 'CANCELLING';
end $$;

-- Make a dead letter, or an ended job that was kept, ready again or delayed. Return OK, INDEPENDENT, NOT_FOUND,
-- DUPLICATE or NO_STEP.
create function redisjobs_f._requeue(q text, change jsonb, now_ms bigint) returns text language plpgsql as $$
declare
  job redisjobs.jobs := redisjobs_f._locked(q, change->>'id');
  has_ended constant boolean := job.place in ('completed', 'cancelled');
  word text := 'OK';
begin
  if job.seq is null or not (job.place = 'dead' or has_ended and change ? 'ended')
    or coalesce(change->>'key', '') not in ('', job.seq::text) then
    return 'NOT_FOUND';
  elsif not redisjobs_f._has_step(job, change->>'from_step') then
    return 'NO_STEP';
  end if;
  job.history := redisjobs_f._story(job, change ? 'parameters', now_ms);
  job.unique_key := nullif(coalesce(change->>'unique', job.unique_key), '');
  job.parameters := coalesce(change->>'parameters', job.parameters);
  job.limit_key := coalesce(nullif(change->>'limit_key', ''), job.limit_key);
  begin
    if redisjobs_f._take_key(q, job.unique_key, job.id, null, now_ms) <> '' then
      return 'DUPLICATE';
    end if;
    job.extra := redisjobs_f._go_back(job, change->>'from_step');
    -- Its parent no longer waits for it, so the job is now independent.
    if job.extra ? 'child_of' and not redisjobs_f._reopen(job, now_ms) then
      job.extra := job.extra - 'child_of';
      job.history := redisjobs_f._add_line(job.history,
        redisjobs_f._event(now_ms, 'independent', '', '', 'its parent had gone on'));
      word := 'INDEPENDENT';
    end if;
    perform redisjobs_f._revive(job, redisjobs_f._due(change, now_ms), now_ms);
  exception
    when unique_violation then  -- a job with its id was pushed meanwhile
      return 'NOT_FOUND';
    when lock_not_available then  -- an uncommitted transaction has taken its key
      if not change ? 'skips' then
        raise;
      end if;
      return 'DUPLICATE';
  end;
  return word;
end $$;

-- Write a requeued job. It loses its failure, its attempts, its expiry, and a unique key that it held for a time.
create function redisjobs_f._revive(job redisjobs.jobs, due bigint, now_ms bigint) returns void
language plpgsql as $$
begin
  update redisjobs.jobs j set history = job.history, unique_key = job.unique_key, parameters = job.parameters,
    limit_key = job.limit_key,
    extra = nullif(job.extra - array['reason', 'error', 'traceback', 'error_type', 'fingerprint',
      'failed_at', 'worker',
      'deliveries', 'priority', 'attempt', 'unknown_since', 'expires_at', 'started_at', 'suspended_at',
      'waits', 'window', 'finished_at',
      'ran_ms'], '{}')
    where j.seq = job.seq;
  perform redisjobs_f._enqueue(job.queue, job.seq, due, now_ms);
  perform redisjobs_f._forget_end(job.queue, job.id);
  perform redisjobs_f._count(job.queue, 'requeued');
end $$;

-- Return a job's history with two more lines: how the job ended, and that it is requeued. If its parameters
-- change, the second line has the old ones.
create function redisjobs_f._story(job redisjobs.jobs, is_edited boolean, now_ms bigint) returns text
language plpgsql as $$
declare
  is_dead constant boolean := job.place = 'dead';
  ended constant text := redisjobs_f._event(
    case when is_dead then redisjobs_f._time_of(job) else job.since_ms end,
    case when is_dead then 'died' else 'ended' end, job.extra->>'worker', job.extra->>'attempt',
    case when is_dead then concat(job.extra->>'reason', ': ', job.extra->>'error') else '' end);
begin
  return redisjobs_f._add_line(redisjobs_f._add_line(job.history, ended), case
    when is_edited then redisjobs_f._event(now_ms, 'edited', '', '', job.parameters)
    else redisjobs_f._event(now_ms, 'requeued') end);
end $$;

-- Delete a dead letter, or an ended job that was kept: OK or NOT_FOUND.
create function redisjobs_f._delete(q text, of_id text, now_ms bigint) returns text language plpgsql as $$
declare
  job constant redisjobs.jobs := redisjobs_f._locked(q, of_id);
begin
  if job.seq is null or job.place not in ('dead', 'completed', 'cancelled') then
    return 'NOT_FOUND';
  end if;
  delete from redisjobs.jobs j where j.seq = job.seq;
  if job.place = 'dead' then
    perform redisjobs_f._forget_steps(job);
  end if;
  perform redisjobs_f._remember_end(job, now_ms);
  perform redisjobs_f._count(q, 'deleted');
  return 'OK';
end $$;

-- Steps through dead letters, the newest first. `wanted` is as for `_step`. Each step returns {after, ids,
-- duplicates}. after: where the next step begins, '' at the end. The first step only says where to begin.

-- Requeue up to 200 dead letters. The first is due after `wait_ms`, and each other one `pause_ms` later.
create function redisjobs_f.requeue_all(q text, given_ms bigint, wanted jsonb, after_seq bigint,
  wait_ms double precision, pause_ms double precision) returns text language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  step constant record := redisjobs_f._letters(q, wanted, after_seq, now_ms);
  changes jsonb;
  has_children boolean;
  change jsonb;
  word text;
  ids jsonb := '[]';
  duplicates integer := 0;
begin
  select coalesce(jsonb_agg(jsonb_build_object('id', j.id, 'key', j.seq::text, 'skips', true)
    order by j.seq desc), '[]'), bool_or(j.extra ? 'child_of') into changes, has_children
      from unnest(step.seqs) s(seq) join redisjobs.jobs j on j.seq = s.seq;
  perform redisjobs_f._lock_jobs(step.seqs);
  perform redisjobs_f._hurry('5ms');
  if has_children then
    perform redisjobs_f._lock_groups_of(q, step.seqs);
  end if;
  for change in select value from jsonb_array_elements(changes) loop
    if wait_ms > 0 then
      change := change || jsonb_build_object('after', wait_ms);
    end if;
    word := redisjobs_f._requeue(q, change, now_ms);
    if word in ('OK', 'INDEPENDENT') then
      ids := ids || to_jsonb(change->>'id');
      wait_ms := wait_ms + pause_ms;
    end if;
    duplicates := duplicates + (word = 'DUPLICATE')::integer;
  end loop;
  return redisjobs_f._answer(jsonb_build_object('after', step.after, 'ids', ids, 'duplicates', duplicates));
end $$;

create function redisjobs_f.delete_all(q text, given_ms bigint, wanted jsonb, after_seq bigint) returns text
language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  step constant record := redisjobs_f._letters(q, wanted, after_seq, now_ms);
  job redisjobs.jobs;
  ids jsonb := '[]';
begin
  perform redisjobs_f._lock_jobs(step.seqs);
  for job in select j.* from unnest(step.seqs) s(seq) join redisjobs.jobs j on j.seq = s.seq
    where j.place is not distinct from 'dead' order by s.seq desc loop
    delete from redisjobs.jobs j where j.seq = job.seq;
    perform redisjobs_f._forget_steps(job);
    perform redisjobs_f._remember_end(job, now_ms);
    ids := ids || to_jsonb(job.id);
  end loop;
  perform redisjobs_f._count(q, 'deleted', jsonb_array_length(ids));
  return redisjobs_f._answer(jsonb_build_object('after', step.after, 'ids', ids, 'duplicates', 0));
end $$;

-- Return the letters of a step, up to 200, and where the next step begins. Without `after_seq`, return no letters,
-- and where to begin.
create function redisjobs_f._letters(q text, wanted jsonb, after_seq bigint, now_ms bigint, out seqs bigint[],
  out after text) language plpgsql as $$
declare
  -- A variable, because with a literal Postgres might choose the index of kinds, which does not have this order.
  state constant text := 'dead';
begin
  if after_seq is null then
    seqs := '{}';
    select '0 ' || -j.seq - 1 into after from redisjobs.jobs j
      where j.queue = q and j.place = state and j.place in ('dead', 'completed', 'cancelled')
        order by j.seq desc limit 1;
  else
    select s.seqs, s.after into seqs, after
      from redisjobs_f._step(q, 'dead', 0, after_seq, wanted, 200, now_ms) s;
  end if;
  after := coalesce(after, '');
end $$;
