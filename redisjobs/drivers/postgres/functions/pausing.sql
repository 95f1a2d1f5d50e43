-- An operator stops jobs from starting: the whole queue, the jobs of a name, or one job.

-- Stop the jobs of a name, or of the whole queue (''), from starting.
create function redisjobs_f.pause(q text, given_ms bigint, of_name text) returns text language plpgsql as $$
begin
  perform redisjobs_f._lock(q);
  insert into redisjobs.rules (queue, kind, name, since_ms)
    values (q, case when of_name = '' then 'queue' else 'name' end, of_name, redisjobs_f._now(given_ms))
      on conflict do nothing;
  if found and of_name = '' then
    perform redisjobs_f._tell('paused', '');
  end if;
  return redisjobs_f._answer('"OK"');
end $$;

-- Let jobs start again. `unpark` hands back the parked jobs of a name. Until then, `resumed` tells the audit why
-- they wait.
create function redisjobs_f.resume(q text, given_ms bigint, of_name text) returns text language plpgsql as $$
begin
  perform redisjobs_f._lock(q);
  delete from redisjobs.rules r
    where r.queue = q and r.kind = case when of_name = '' then 'queue' else 'name' end and r.name = of_name;
  if found and of_name = '' then
    perform redisjobs_f._tell('resumed', '');
  elsif found then
    insert into redisjobs.settings (queue, name, value, at_ms)
    values (q, 'resumed', of_name, redisjobs_f._now(given_ms))
      on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;
    perform redisjobs_f._give_turns(q, of_name, redisjobs_f._now(given_ms));
  end if;
  return redisjobs_f._answer('"OK"');
end $$;

-- Return since when the queue and job names are paused, and how many jobs are held.
create function redisjobs_f.find_pauses(q text, given_ms bigint) returns text language plpgsql stable as $$
begin
  return redisjobs_f._answer((
    select jsonb_build_object('queue', max(since_ms) filter (where kind = 'queue'),
      'names', coalesce(jsonb_object_agg(name, since_ms) filter (where kind = 'name'), '{}'),
      'held', count(*) filter (where kind = 'held'))
    from redisjobs.rules where queue = q and kind in ('queue', 'name', 'held')
  ));
end $$;

-- Hold one job, or let it start again. Both run beside exchanges, but not beside a pause or a resume.
create function redisjobs_f.hold(q text, given_ms bigint, job_id text) returns text language plpgsql as $$
begin
  perform redisjobs_f._share(q);
  return redisjobs_f._answer(to_jsonb(redisjobs_f._hold(q, job_id, redisjobs_f._now(given_ms))));
end $$;

create function redisjobs_f.unhold(q text, given_ms bigint, job_id text) returns text language plpgsql as $$
begin
  perform redisjobs_f._share(q);
  return redisjobs_f._answer(to_jsonb(redisjobs_f._unhold(q, job_id, redisjobs_f._now(given_ms))));
end $$;

-- Stop a job from starting. Return a word. The caller has taken `_share` before it locked any row.
create function redisjobs_f._hold(q text, job_id text, now_ms bigint) returns text language plpgsql as $$
declare
  job redisjobs.jobs;
begin
  select * into job from redisjobs.jobs j
    where j.queue = q and j.id = job_id and j.place not in ('completed', 'cancelled') for update;
  if job.place is null or job.place in ('running', 'dead') then
    return coalesce(upper(job.place), 'NOT_FOUND');
  end if;
  insert into redisjobs.rules (queue, kind, name, since_ms) values (q, 'held', job_id, now_ms)
  on conflict do nothing;
  -- A delayed job is parked when it is due. A job in a limit's line is parked when it has its turn. A job whose
  -- cancel was requested is ended by a claim, so it stays where claims look.
  if job.place in ('ready', 'returned', 'alone') and not job.cancelling then
    perform redisjobs_f._park(job, now_ms);
    if job.place in ('returned', 'alone') then
      perform redisjobs_f._pass_turn(job, now_ms);  -- the job may have had its turn
    end if;
  end if;
  return 'HELD';
end $$;

-- Let a held job start. Return a word. The caller has taken `_share` before it locked any row.
create function redisjobs_f._unhold(q text, job_id text, now_ms bigint) returns text language plpgsql as $$
declare
  job redisjobs.jobs;
  was_held boolean;
begin
  select * into job from redisjobs.jobs j
    where j.queue = q and j.id = job_id and j.place not in ('completed', 'cancelled') for update;
  delete from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = job_id;
  was_held := found;
  if job.place = 'parked' and not redisjobs_f._may_not_start(job) then
    perform redisjobs_f._hand_back(job, job.deliveries, now_ms);
    perform redisjobs_f._tell('released', '1');
    return 'OK';
  end if;
  return case when was_held then 'OK' else 'NOT_FOUND' end;
end $$;

-- Return whether a job is held, or its name is paused.
create function redisjobs_f._may_not_start(job redisjobs.jobs) returns boolean language plpgsql stable as $$
begin
  return exists (select from redisjobs.rules r where r.queue = job.queue and r.kind = 'held' and r.name = job.id)
    or exists (select from redisjobs.rules r where r.queue = job.queue and r.kind = 'name' and r.name = job.name);
end $$;

-- Make parked jobs ready that may start again. This is one step. Return where the next step begins: a rank and a
-- place in line, or ''.
create function redisjobs_f.unpark(q text, given_ms bigint, after_rank smallint, after_seq bigint) returns text
language plpgsql as $$
begin
  perform redisjobs_f._lock(q);
  return redisjobs_f._answer(to_jsonb(redisjobs_f._unpark(q, after_rank, after_seq, redisjobs_f._now(given_ms))));
end $$;

-- The same for a caller that has `_lock`.
create function redisjobs_f._unpark(q text, after_rank smallint, after_seq bigint, now_ms bigint) returns text
language plpgsql as $$
declare
  after text;
  unparked bigint;
begin
  with looked as materialized (
    select j from redisjobs.jobs j
    where j.queue = q and j.place = 'parked' and (j.rank, j.seq) > (after_rank, after_seq)
      order by j.rank, j.seq limit 500
  ), free as materialized (  -- jobs that another transaction is changing follow a minute later
    select l.j from looked l cross join lateral (
      select from redisjobs.jobs each where each.seq = (l.j).seq and each.place is not distinct from 'parked'
      for no key update skip locked) mine
    where not redisjobs_f._may_not_start(l.j)
  ), freed as (
    update redisjobs.jobs job set place = 'returned', at_ms = now_ms from free f
    where job.seq = (f.j).seq returning job.seq
  )
  select (select count(*) from freed),
    case when count(*) = 500 then (array_agg((j).rank || ' ' || (j).seq order by (j).rank desc, (j).seq desc))[1]
    else '' end
  into unparked, after from looked;
  if unparked > 0 then
    perform redisjobs_f._tell('released', unparked::text);
  end if;
  return after;
end $$;
