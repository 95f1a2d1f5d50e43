-- Steps of jobs: results that runs have saved, suspended jobs, and the events that wake them. The field `waits` of
-- a suspended job has the number of the step, the event it waits for (`time`, `signal`, `children`), and the
-- step's key. If the wait ends at some time, the field also has that time in ms.

-- Save a step of a running job, or its checkpoint if the key is ''. `s` has key, number, value and version. Return
-- OK or EXISTS.
create function redisjobs_f._save(job redisjobs.jobs, s jsonb, now_ms bigint) returns text language plpgsql as $$
begin
  perform redisjobs_f._mark_stepped(job, s, now_ms);
  if s->>'key' = '' then
    insert into redisjobs.steps values (job.queue, job.id, '', null, now_ms, null, s->>'value',
      (s->>'version')::integer)
      on conflict (queue, id, key) do update set value = excluded.value, at_ms = excluded.at_ms;
    return 'OK';
  end if;
  insert into redisjobs.steps values (job.queue, job.id, s->>'key', (s->>'number')::integer,
    now_ms, 'done', s->>'value')
    on conflict do nothing;
  return case when found then 'OK' else 'EXISTS' end;
end $$;

-- Note in the fields of a running job that it has saved something, so that the next run knows.
create function redisjobs_f._mark_stepped(job redisjobs.jobs, s jsonb, now_ms bigint)
  returns void language plpgsql as $$
begin
  if not coalesce(job.extra ? 'steps', false) then
    perform redisjobs_f._begin_steps(job, s, now_ms);
    update redisjobs.jobs set extra = coalesce(job.extra, '{}') || '{"steps": "1"}' where seq = job.seq;
  end if;
end $$;

-- Note the version of the handler that saves the first step of a job.
create function redisjobs_f._begin_steps(job redisjobs.jobs, s jsonb, now_ms bigint)
  returns void language plpgsql as $$
begin
  insert into redisjobs.steps (queue, id, key, at_ms, version)
  values (job.queue, job.id, '', now_ms, (s->>'version')::integer)
    on conflict do nothing;
end $$;

-- Suspend a running job, or make it ready at once if its wait is over. A job that waits for children becomes ready
-- at the end of the call. `s` has waits, version and changes (of its fields). It may have the group, and the
-- latest time to wake the job, as for a push.
create function redisjobs_f._suspend(job redisjobs.jobs, s jsonb, now_ms bigint)
  returns void language plpgsql as $$
declare
  due constant bigint := redisjobs_f._due(s, now_ms);
  awaited constant text := redisjobs_f._awaited(s->>'waits');
  kept constant text := job.signals->>awaited;
  is_over constant boolean := kept is not null or coalesce(due <= now_ms, false);
begin
  perform redisjobs_f._begin_steps(job, s, now_ms);
  perform redisjobs_f._change_fields(job, s->'changes' || jsonb_build_object('steps', '1',
    'suspended_at', now_ms::text,
    'waits', concat_ws(' ', s->>'waits', due)), now_ms);
  update redisjobs.jobs set seq = nextval('redisjobs.line'), place = 'suspended', since_ms = now_ms, due_ms = due,
    deliveries = 0, worker = null, at_ms = 0, was_alone = false,
    signals = nullif(job.signals - coalesce(awaited, ''), '{}')
  where seq = job.seq returning seq into job.seq;
  perform redisjobs_f._count(job.queue, 'suspended');
  if s ? 'group' then
    perform redisjobs_f._touch_group(s->'group'->>'token', 0);
  elsif is_over then
    perform redisjobs_f._wake(job.queue, array[job.seq], case when kept is not null
      then 'signal' end, array[kept], now_ms);
  end if;
  if is_over or due is not null then
    perform redisjobs_f._announce(job.queue, case when not is_over then due end, now_ms);
  end if;
end $$;

-- Return the name of the signal that a job waits for, given its field `waits`. Null: it waits for something else.
create function redisjobs_f._awaited(waits text) returns text language sql immutable as $$
  select substring(waits from '^[0-9]+ signal ([^# ]+)')
$$;

-- Make suspended jobs ready, in this order. The jobs are locked. Save how their waits have ended: `as_how`, and a
-- value of each; null: their time has come.
create function redisjobs_f._wake(q text, seqs bigint[], as_how text, its_values text[], now_ms bigint)
  returns void language plpgsql as $$
begin
  if seqs = '{}' then
    return;
  end if;
  perform pg_current_xact_id();
  with waiting as materialized (
    select s.seq, s.value, j.id, regexp_match(j.extra->>'waits', '^([0-9]{1,9}) (\S+) (\S+)') as wait
    from unnest(seqs, its_values) with ordinality s(seq, value, n)
    join redisjobs.jobs j on j.seq = s.seq order by s.n
  ), numbered as materialized (
    select w.*, nextval('redisjobs.line') as fresh from waiting w
  ), saved as (
    insert into redisjobs.steps (queue, id, key, number, at_ms, how, value)
    select q, n.id, n.wait[3], n.wait[1]::integer, now_ms,
      coalesce(as_how, case n.wait[2] when 'time' then 'slept' else 'timeout' end), n.value
    from numbered n where n.wait is not null
    on conflict (queue, id, key) do update set (number, at_ms, how, value) =
      (excluded.number, excluded.at_ms, excluded.how, excluded.value) where steps.number is null
  )
  update redisjobs.jobs j set seq = n.fresh, since_ms = now_ms, due_ms = null,
    extra = nullif(j.extra - 'waits', '{}'),
    place = case when exists (select from redisjobs.rules r
      where r.queue = q and r.kind = 'held' and r.name = j.id)
      then 'parked' else 'ready' end
  from numbered n where j.seq = n.seq;
  perform redisjobs_f._count(q, 'woken', cardinality(seqs));
end $$;

-- Forget the saved steps of a job and the groups of its children. With `cancels`, children that have not ended are
-- cancelled, and their groups go once they have.
create function redisjobs_f._forget_steps(job redisjobs.jobs, cancels boolean default false)
  returns void language plpgsql as $$
declare
  tokens text[];
begin
  if job.extra ? 'steps' then
    with gone as (
      delete from redisjobs.steps s where s.queue = job.queue and s.id = job.id returning s.how, s.value
    )
    select array_agg(g.value order by g.value) filter (where g.how = 'children') into tokens from gone g;
    if cancels and tokens is not null then
      tokens := redisjobs_f._cancel_groups(job.queue, tokens);
    end if;
    perform redisjobs_f._forget_groups(job.queue, tokens);
  end if;
end $$;

-- Return whether a job has a step that it can be requeued from. Null and '' need none.
create function redisjobs_f._has_step(job redisjobs.jobs, from_key text) returns boolean language plpgsql as $$
begin
  return coalesce(from_key, '') = '' or job.place = 'dead' and exists (select from redisjobs.steps s
    where s.queue = job.queue and s.id = job.id and s.key = from_key and s.number is not null);
end $$;

-- Forget a step, steps that were saved after it or not at all, and the checkpoint. '' forgets all steps; null
-- forgets nothing. Return the fields of the job, which say whether any step is left. A job that has ended has no
-- steps.
create function redisjobs_f._go_back(job redisjobs.jobs, from_key text) returns jsonb language plpgsql as $$
declare
  first integer;
  tokens text[];
begin
  if job.place = 'dead' and from_key is null then
    return job.extra;
  elsif job.place = 'dead' then
    select s.number into first from redisjobs.steps s where s.queue = job.queue
      and s.id = job.id and s.key = from_key;
    if from_key <> '' and exists (select from redisjobs.steps s
        where s.queue = job.queue and s.id = job.id and s.number < first) then
      with gone as (
        delete from redisjobs.steps s where s.queue = job.queue and s.id = job.id
          and (s.number >= first or s.number is null and s.key <> '') returning s.how, s.value
      )
      select array_agg(g.value order by g.value) filter (where g.how = 'children') into tokens from gone g;
      perform redisjobs_f._forget_groups(job.queue, tokens);
      update redisjobs.steps s set value = null where s.queue = job.queue and s.id = job.id and s.key = '';
      return job.extra;
    end if;
    perform redisjobs_f._forget_steps(job);
  end if;
  return job.extra - 'steps';
end $$;

-- Return the saved steps of jobs, a row each, with the position of the job in `ids`. `meta` is the number of jobs
-- looked at; the answer stops at about 1 MB.
create function redisjobs_f.steps(q text, given_ms bigint, ids text[])
  returns table (meta text, job integer, key text, number integer, at_ms bigint, how text, value text,
    version integer)
  language plpgsql stable as $$
#variable_conflict use_column
declare
  bytes bigint := 0;
  looked integer := 0;
begin
  while looked < cardinality(ids) and bytes < 1048576 loop
    looked := looked + 1;
    for key, number, at_ms, how, value, version in
      select s.key, s.number, s.at_ms, s.how, s.value, s.version from redisjobs.steps s
      where s.queue = q and s.id = ids[looked]
    loop
      bytes := bytes + 50 + octet_length(key) + coalesce(octet_length(value), 0);
      job := looked - 1;
      return next;
    end loop;
  end loop;
  meta := redisjobs_f._answer(to_jsonb(looked));
  return next;
end $$;

-- Send a signal to a job. The answer is a word. A job keeps up to `most` signals that it has not waited for yet,
-- of up to `most_bytes`. The lock timeout is short, because the job may be locked.
create function redisjobs_f.signal(q text, given_ms bigint, job_id text, of_name text, its_value text, nonce text,
  most integer, most_bytes integer) returns text language plpgsql set lock_timeout = '2s' as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
begin
  perform redisjobs_f._need_read_committed();
  return redisjobs_f._answer(to_jsonb(
    redisjobs_f._signal(redisjobs_f._locked(q, job_id), q, of_name, its_value, job_id || ' ' || nonce, most,
      most_bytes, now_ms)));
end $$;

-- Send a signal to a job that is locked.
create function redisjobs_f._signal(job redisjobs.jobs, q text, of_name text, its_value text, one text,
  most integer, most_bytes integer, now_ms bigint) returns text language plpgsql as $$
declare
  kept record;
begin
  if redisjobs_f._remembered(q, 'signal', one, now_ms) is not null then
    return 'OK';
  elsif job.seq is null or job.place in ('completed', 'cancelled') then
    return 'NOT_FOUND';
  elsif job.place = 'dead' then
    return 'DEAD';
  elsif job.place = 'suspended' and redisjobs_f._awaited(job.extra->>'waits') = of_name then
    perform redisjobs_f._remember(q, 'signal', one, '', now_ms + 60000);
    perform redisjobs_f._wake(q, array[job.seq], 'signal', array[its_value], now_ms);
    perform redisjobs_f._announce(q, null, now_ms);
    return 'OK';
  elsif job.signals ? of_name then
    return 'EXISTS';
  end if;
  select count(*) as many, coalesce(sum(octet_length(s.value)), 0) as bytes into kept
  from jsonb_each_text(job.signals) s;
  if kept.many >= most or kept.bytes + octet_length(its_value) > most_bytes then
    return 'OVERSIZED';
  end if;
  perform redisjobs_f._remember(q, 'signal', one, '', now_ms + 60000);
  update redisjobs.jobs j set signals = coalesce(j.signals, '{}') || jsonb_build_object(of_name, its_value)
  where j.seq = job.seq;
  return 'KEPT';
end $$;
