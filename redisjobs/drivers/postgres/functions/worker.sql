-- A worker's lease: the worker joins, renews its lease, takes over jobs of lost workers, and leaves.

-- Register a worker. `run_id` distinguishes it from another worker with its id. The answer is OK or TAKEN.
create function redisjobs_f.join(q text, given_ms bigint, worker_id text, lease_ms bigint, run_id text)
  returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
begin
  perform redisjobs_f._refuse_behind(q);
  perform redisjobs_f._need_read_committed();
  perform redisjobs_f._hurry();
  insert into redisjobs.workers (queue, id, run, lease_ms, began_ms)
  values (q, worker_id, run_id, lease_ms, now_ms)
    on conflict (queue, id) do nothing;
  if not found then
    return redisjobs_f._answer(case when exists (select from redisjobs.workers w
      where w.queue = q and w.id = worker_id and w.run = run_id) then '"OK"' else '"TAKEN"' end::jsonb);
  elsif exists (select from redisjobs.fenced f where f.queue = q and f.id = worker_id) then
    delete from redisjobs.workers w where w.queue = q and w.id = worker_id;
    return redisjobs_f._answer('"TAKEN"');
  end if;
  insert into redisjobs.beats (queue, id, until_ms) values (q, worker_id, now_ms + lease_ms)
  on conflict (queue, id) do update set until_ms = excluded.until_ms, facts = '{}', wish = null, cancels = 0;
  perform redisjobs_f._tell('joined', '');
  return redisjobs_f._answer('"OK"');
end $$;

-- Raise an error if the sequence would give a place in line that a job already has. Jobs are changed by their
-- places. A look at the jobs reads all delayed ones, so it is left out if tidying has noted the sequence since the
-- server started, and the sequence has not gone back since.
create function redisjobs_f._refuse_behind(q text) returns void language plpgsql as $$
declare
  noted constant bigint := (select split_part(s.value, ' ', 2) from redisjobs.settings s where s.queue = q
    and s.name = 'line' and split_part(s.value, ' ', 1) = redisjobs_f._server()::text);
begin
  if redisjobs_f._given() >= noted then
    return;
  elsif redisjobs_f._is_behind(q) then
    raise exception 'the sequence redisjobs.line is behind the places of jobs, as after an upgrade by logical '
      'replication, which does not copy it: new jobs would share places with others, and be lost. '
      'Stop what pushes, and as the owner of the schema run: '
      'select setval(''redisjobs.line'', (select max(seq) from redisjobs.jobs))';
  end if;
end $$;

-- Note that no job was ahead of the sequence on this server.
create function redisjobs_f._note_line(q text, now_ms bigint) returns void language sql as $$
  insert into redisjobs.settings
  values (q, 'line', redisjobs_f._server() || ' ' || redisjobs_f._given(), now_ms)
    on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms
$$;

-- Return the last place in line that the sequence has given.
create function redisjobs_f._given() returns bigint language sql stable as $$
  select last_value - case when is_called then 0 else 1 end from redisjobs.line
$$;

-- Return whether a job has a place in line that the sequence has not given yet. The function is stable, so it sees
-- no job that was added after it read the sequence.
create function redisjobs_f._is_behind(q text) returns boolean language plpgsql stable as $$
declare
  given constant bigint := redisjobs_f._given();
begin
  return exists (
    select from (values (0), (1), (2)) ranks (rank) cross join lateral (
      (select from redisjobs.jobs j where j.queue = q and j.place = 'ready'
        and j.rank = ranks.rank and j.seq > given
        order by j.seq limit 1)
      union all
      (select from redisjobs.jobs j where j.queue = q and j.place in ('returned', 'alone') and j.rank = ranks.rank
        and j.seq > given order by j.seq limit 1)
      union all
      (select from redisjobs.jobs j where j.queue = q and j.place = 'parked'
        and j.rank = ranks.rank and j.seq > given
        order by j.seq limit 1)
      union all
      (select from redisjobs.jobs j where j.queue = q and j.place = 'line'
        and j.rank::integer = ranks.rank and j.seq > given
        order by j.seq limit 1)
    ) waits
  ) or exists (
    select from unnest(array['dead', 'completed', 'cancelled']) state cross join lateral (
      select from redisjobs.jobs j where j.queue = q and j.place = state
        and j.place in ('dead', 'completed', 'cancelled')
        and j.seq > given order by j.seq limit 1) aside
  ) or exists (  -- these states are not in order, but the index has them
    select from redisjobs.jobs j where j.queue = q and j.place = 'running' and j.seq > given
    order by j.worker, j.seq limit 1
  ) or exists (
    select from redisjobs.jobs j where j.queue = q and j.place = 'delayed' and j.seq > given
    order by j.due_ms, j.seq limit 1
  ) or exists (
    select from redisjobs.jobs j where j.queue = q and j.place = 'suspended' and j.seq > given
    order by j.due_ms, j.seq limit 1
  );
end $$;

-- Renew the leases of workers, also of several queues. `facts` are JSON objects. The answer has for each worker,
-- in order, null if it is fenced; else how many cancels of its jobs were requested, and the last request of an
-- operator to it.
create function redisjobs_f.beat(q text, given_ms bigint, queues text[], ids text[], facts text[]) returns text
  language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  beaten jsonb;
begin
  perform redisjobs_f._need_read_committed();
  perform set_config('synchronous_commit', 'off', true);
  perform from redisjobs.beats b join unnest(queues, ids) given(queue, id) using (queue, id)
    order by b.queue, b.id for update of b;
  -- A separate statement after the wait for the locks: only so does it see that a worker was fenced meanwhile.
  with given as (
    select * from unnest(queues, ids, facts) with ordinality as each(queue, id, facts, at)
  ), moved as (
    update redisjobs.beats b set until_ms = now_ms + w.lease_ms, facts = b.facts || g.facts::jsonb
    from given g join redisjobs.workers w using (queue, id)
    where b.queue = g.queue and b.id = g.id
    returning g.at, b.cancels, b.wish
  )
  select jsonb_agg(case when m.at is not null then jsonb_build_array(m.cancels, m.wish) end order by g.at)
  into beaten from given g left join moved m using (at);
  return redisjobs_f._answer(beaten);
end $$;

-- Return the places in line of the running jobs that have to be cancelled.
create function redisjobs_f.cancelled(q text, given_ms bigint, seqs bigint[], named text[], counted integer[])
  returns text language sql stable as $$
  select redisjobs_f._answer(coalesce(jsonb_agg(j.seq), '[]'))
  from redisjobs.jobs j join unnest(seqs, named, counted) as s(seq, id, deliveries)
    on j.seq = s.seq and j.deliveries = s.deliveries and j.id = s.id
  where j.queue = q and j.place = 'running' and j.cancelling
$$;

-- Refuse all further calls of a worker. `reclaim` hands back its jobs.
create function redisjobs_f._fence(q text, worker_id text, now_ms bigint) returns void language sql as $$
  with gone as (delete from redisjobs.workers where queue = q and id = worker_id returning lease_ms)
  insert into redisjobs.fenced (queue, id, until_ms) select q, worker_id, now_ms + lease_ms + 5000 from gone
  on conflict (queue, id) do update set until_ms = excluded.until_ms
$$;

-- Lock up to 500 running jobs of these workers, and return their places in line. Jobs that another transaction has
-- locked are skipped until a later call.
create function redisjobs_f._lock_running(q text, ids text[]) returns bigint[] language plpgsql as $$
begin
  return array(
    select j.seq from unnest(ids) as each(id) cross join lateral (
      select seq from redisjobs.jobs where queue = q and worker = each.id and place = 'running'
      order by seq limit 500
      for update skip locked
    ) j limit 500);
end $$;

-- Hand back jobs that are locked. Return their number.
create function redisjobs_f._hand_back_all(q text, seqs bigint[], refund boolean, now_ms bigint) returns integer
  language plpgsql as $$
declare
  job redisjobs.jobs;
  what text := case when refund then 'released' else 'worker-lost' end;
begin
  for job in select j.* from unnest(seqs) s(seq) join redisjobs.jobs j on j.seq = s.seq order by s.seq loop
    job.history := redisjobs_f._add_line(job.history, redisjobs_f._event(now_ms, what, job.worker));
    perform redisjobs_f._hand_back(job, job.deliveries - refund::integer, now_ms);
  end loop;
  perform redisjobs_f._give_up(q, seqs, refund, now_ms);
  return cardinality(seqs);
end $$;

-- Forget fenced workers that have no jobs any more and whose ids may come again. Keep a worker while an exchange
-- of it runs, because the exchange may claim jobs.
create function redisjobs_f._forget_fenced(q text, now_ms bigint) returns void language plpgsql as $$
begin
  with gone as (
    delete from redisjobs.fenced f where f.queue = q and f.until_ms <= now_ms
      and pg_try_advisory_xact_lock(redisjobs_f._worker_lock(q, f.id))
      and (select j.seq from redisjobs.jobs j where j.queue = q and j.worker = f.id and j.place = 'running'
        order by j.seq limit 1) is null
    returning f.id
  )
  delete from redisjobs.beats b using gone g where b.queue = q and b.id = g.id;
end $$;

-- Fence silent workers that have not renewed their leases since the caller saw them (`untils`), and hand back
-- their jobs. This does not wait for locks of a lost worker: a later call handles those rows.
create function redisjobs_f.reclaim(q text, given_ms bigint, worker_id text, silent text[], untils bigint[],
  others boolean) returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  lost record;
  fenced text[] := '{}';
  held bigint[];
  before integer;
  handed integer;
  next_due bigint;
begin
  if redisjobs_f._enter(q, worker_id) <> '' then
    return redisjobs_f._answer('"FENCED"');
  end if;
  held := redisjobs_f._lock_running(q, silent || array(select id from redisjobs.fenced where queue = q));
  -- Leases that end impossibly late: the clock was set back.
  update redisjobs.beats b set until_ms = now_ms + w.lease_ms from redisjobs.workers w
  where b.queue = q and w.queue = q and w.id = b.id and b.until_ms > now_ms + w.lease_ms;
  update redisjobs.fenced set until_ms = now_ms + 20000 where queue = q and until_ms > now_ms + 4000000;
  for lost in
    select b.id from redisjobs.beats b join unnest(silent, untils) as s(id, until_ms) using (id, until_ms)
    join redisjobs.workers w on w.queue = q and w.id = b.id where b.queue = q order by b.id
      for update of b skip locked
  loop
    perform redisjobs_f._fence(q, lost.id, now_ms);
    fenced := fenced || lost.id;
  end loop;
  select count(*) into before from redisjobs.fenced where queue = q;
  handed := redisjobs_f._hand_back_all(q, array(
    select j.seq from unnest(held) s(seq) join redisjobs.jobs j on j.seq = s.seq
    where (select true from redisjobs.fenced f where f.queue = q and f.id = j.worker)
      order by s.seq), false, now_ms);
  perform redisjobs_f._forget_fenced(q, now_ms);
  perform redisjobs_f._count(q, 'reclaimed', handed);
  if handed > 0 then
    perform redisjobs_f._tell('released', handed::text);
  end if;
  if fenced <> '{}' or before > (select count(*) from redisjobs.fenced where queue = q) then
    perform redisjobs_f._tell_turn(q);
  end if;
  -- Workers look every few seconds, and a new worker looks at all jobs. So rows that were due long ago are dead.
  next_due := redisjobs_f._next_due(q, now_ms - 60000);
  return redisjobs_f._answer(jsonb_build_object(
    'silent', (select coalesce(jsonb_agg(jsonb_build_array(b.id, b.until_ms, b.lease_ms)), '[]') from (
      select b.id, b.until_ms, w.lease_ms from redisjobs.beats b
      join redisjobs.workers w on w.queue = q and w.id = b.id
      where b.queue = q and b.until_ms <= now_ms order by b.until_ms limit 100) b),
    'fenced', fenced, 'jobs', handed, 'more', handed > 0 and cardinality(held) = 500,
    'released', redisjobs_f._any_returned(q),
    'others', case when others then (select count(*) from (
      select worker from redisjobs.jobs where queue = q and place = 'running' order by worker) r
      where worker <> worker_id) else 0 end,
    -- A worker renews its lease after each third of it. Where leases are equal, a killed worker stops counting
    -- long before its lease ends.
    'workers', (select count(*) from redisjobs.beats b join redisjobs.workers w on w.queue = q and w.id = b.id
      where b.queue = q and b.until_ms > now_ms + (select lease_ms / 2 from redisjobs.workers
        where queue = q and id = worker_id)),
    'alone', (select count(*) from redisjobs.workers where queue = q)
    + (select count(*) from redisjobs.fenced where queue = q) < 2,
    'promotes', redisjobs_f._may_promote(q, worker_id, now_ms),
    'late', coalesce(next_due <= now_ms - 250, false)
      or exists (select from redisjobs.buckets where queue = q and turn_ms >= now_ms - 60000
        and turn_ms <= now_ms - 2000),
    'server', redisjobs_f._server(), 'now', redisjobs_f._clock(given_ms)));
end $$;

-- Return whether this worker is the promoter, or becomes it. The promoter is the worker that looks when jobs are
-- due.
create function redisjobs_f._may_promote(q text, worker_id text, now_ms bigint)
  returns boolean language plpgsql as $$
declare
  other record;
begin
  select s.value, s.at_ms into other from redisjobs.settings s where s.queue = q and s.name = 'promoter';
  if found and other.value <> worker_id and now_ms < other.at_ms and other.at_ms <= now_ms + 20000
    and exists (select from redisjobs.workers w where w.queue = q and w.id = other.value) then
    return false;
  end if;
  insert into redisjobs.settings (queue, name, value, at_ms) values (q, 'promoter', worker_id, now_ms + 20000)
  on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;
  return true;
end $$;

-- Hand back all jobs of a worker, and end its lease. Return the number of jobs; 500 means that there may be more,
-- so call again.
create function redisjobs_f.release(q text, given_ms bigint, worker_id text, refund boolean, watch boolean)
  returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  was_fenced boolean;
  released integer;
begin
  perform redisjobs_f._join_in(q);
  perform pg_advisory_xact_lock(redisjobs_f._worker_lock(q, worker_id));
  was_fenced := exists (select from redisjobs.fenced f where f.queue = q and f.id = worker_id);
  released := redisjobs_f._hand_back_all(q, array(
    select seq from redisjobs.jobs where queue = q and worker = worker_id and place = 'running'
    order by seq limit 500 for update),
    refund and not was_fenced, now_ms);
  if released < 500 and not was_fenced then
    perform redisjobs_f._fence(q, worker_id, now_ms);
    if refund and not watch then
      delete from redisjobs.fenced f where f.queue = q and f.id = worker_id;
      delete from redisjobs.beats b where b.queue = q and b.id = worker_id;
    end if;
  end if;
  delete from redisjobs.settings s where s.queue = q and s.name = 'promoter' and s.value = worker_id;
  if found then
    perform redisjobs_f._tell('left', '');
  end if;
  perform redisjobs_f._tell_turn(q);
  perform redisjobs_f._tell_released(q, released);
  return redisjobs_f._answer(to_jsonb(released));
end $$;
