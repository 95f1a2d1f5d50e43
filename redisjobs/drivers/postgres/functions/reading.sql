-- Queries of operators: one job, the jobs of a state, kinds of failure, counts. These functions write nothing.
-- They are stable, so all statements of a call see the queue at one instant.

-- Return why a waiting job can't start, besides its place in line and its due time; '' if nothing stops it.
create function redisjobs_f._obstacle(job redisjobs.jobs, is_held boolean, is_name_paused boolean,
  is_paused boolean, has_worker boolean) returns text language sql immutable as $$
  select case
    when is_held then 'held'
    when is_paused then 'paused'
    when is_name_paused then 'name paused'
    when job.place = 'line' then 'limit'
    when not has_worker then 'no worker'
    when job.extra ->> 'unknown_since' <> '' then 'no handler'
    when job.place = 'alone' then 'last delivery'
    else '' end
$$;

-- Count the workers whose leases run.
create function redisjobs_f._workers(q text, now_ms bigint) returns bigint language sql stable as $$
  select count(*) from redisjobs.workers w join redisjobs.beats b on b.queue = w.queue and b.id = w.id
  where w.queue = q and b.until_ms > now_ms
$$;

-- Return jobs in the given order. The first column is JSON with the facts: the columns that are not fields of an
-- entry, whether the job is held, why it waits, and its last progress report. The other columns are the fields of
-- the entry.
create function redisjobs_f._rows(q text, seqs bigint[], now_ms bigint)
  returns table (facts text, id text, name text, parameters text, extra text, nonce text, unique_key text,
    limit_key text, history text)
  language sql stable as $$
  select json_build_object('place', job.place, 'rank', job.rank, 'seq', job.seq, 'since',
    job.since_ms, 'due', job.due_ms,
    'worker', job.worker, 'deliveries', job.deliveries, 'at', job.at_ms, 'cancelling', job.cancelling,
    'held', waits and held.name is not null,
    'why', case when waits then redisjobs_f._obstacle(job, held.name is not null, paused.name is not null,
      is_paused, has_worker) else '' end,
    'progress', progress.value)::text,
    job.id, job.name, job.parameters, job.extra::text, job.nonce, job.unique_key, job.limit_key, job.history
  from unnest(seqs) with ordinality as wanted (seq, n)
  join redisjobs.jobs job on job.seq = wanted.seq and job.queue = q
  cross join lateral (select job.place not in ('running', 'dead', 'completed', 'cancelled')) as state (waits)
  cross join (select exists (select from redisjobs.rules where queue = q and kind = 'queue'),
    redisjobs_f._workers(q, now_ms) > 0) as facts (is_paused, has_worker)
  left join redisjobs.rules held on held.queue = q and held.kind = 'held' and held.name = job.id
  left join redisjobs.rules paused on paused.queue = q and paused.kind = 'name' and paused.name = job.name
  left join redisjobs.progress progress on progress.queue = q and progress.id = job.id
    and progress.until_ms > now_ms
    and job.place not in ('dead', 'completed', 'cancelled')
  order by wanted.n
$$;

-- Return the seq of the job with this id that has not ended, else of the last ended job that is kept. Null: there
-- is none.
create function redisjobs_f._seq_of(q text, job_id text) returns bigint language sql stable as $$
  select coalesce(
    (select seq from redisjobs.jobs where queue = q and id = job_id and place not in ('completed', 'cancelled')),
    (select max(seq) from redisjobs.jobs where queue = q and id = job_id and place in ('completed', 'cancelled')))
$$;

create function redisjobs_f.find(q text, given_ms bigint, job_id text)
  returns table (meta text, id text, name text, parameters text, extra text, nonce text, unique_key text,
    limit_key text, history text)
  language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
begin
  return query select * from redisjobs_f._rows(q, array[redisjobs_f._seq_of(q, job_id)], now_ms);
  meta := redisjobs_f._answer(to_jsonb(now_ms));
  return next;
end $$;

-- Scans

-- Return the places of up to 501 jobs of a state, in order, after a place. `at` is the rank of a ready job. Of a
-- delayed or suspended job it is the due time; a job that waits for no time has 2^53, after all others. Of dead
-- letters and ended jobs it is 0, and the newest come first. `worker_id` limits running jobs to one worker; '' for
-- any.
create function redisjobs_f._places(q text, state text, after_at bigint, after_seq bigint, kind_of text,
  worker_id text)
  returns table (at bigint, seq bigint)
  language plpgsql stable as $$
declare
  after_rank constant smallint := case when state in ('ready', 'running') then after_at end;
  never constant bigint := 9007199254740992;
begin
  if state = 'ready' then
    return query select found.rank::bigint, found.seq from (
      (select job.rank, job.seq from redisjobs.jobs job where job.queue = q and place = 'ready'
        and (job.rank, job.seq) > (after_rank, after_seq) order by job.rank, job.seq limit 501)
      union all
      (select job.rank, job.seq from redisjobs.jobs job where job.queue = q and place in ('returned', 'alone')
        and (job.rank, job.seq) > (after_rank, after_seq) order by job.rank, job.seq limit 501)
      union all
      (select job.rank, job.seq from redisjobs.jobs job where job.queue = q and place = 'parked'
        and (job.rank, job.seq) > (after_rank, after_seq) order by job.rank, job.seq limit 501)
      union all
      (select job.rank, job.seq from redisjobs.jobs job where job.queue = q and place = 'line'
        and (job.rank::integer, job.seq) > (after_at::integer, after_seq)
          order by job.rank::integer, job.seq limit 501)
    ) found order by found.rank, found.seq limit 501;
  elsif state = 'running' and worker_id <> '' then
    return query select job.rank::bigint, job.seq
      from redisjobs.jobs job where job.queue = q and place = 'running' and worker = worker_id
      and (job.rank, job.seq) > (after_rank, after_seq) order by job.rank, job.seq limit 501;
  -- no index has running jobs in this order, because claims would have to maintain it
  elsif state = 'running' then
    return query select job.rank::bigint, job.seq
      from redisjobs.jobs job where job.queue = q and place = 'running'
      and (job.rank, job.seq) > (after_rank, after_seq) order by job.rank, job.seq limit 501;
  elsif state = 'delayed' then
    return query select job.due_ms, job.seq
      from redisjobs.jobs job where job.queue = q and place = 'delayed'
        and (job.due_ms, job.seq) > (after_at, after_seq)
      order by job.due_ms, job.seq limit 501;
  elsif state = 'suspended' then
    return query select found.at, found.seq from (
      (select job.due_ms as at, job.seq from redisjobs.jobs job where job.queue = q and place = 'suspended'
        and (job.due_ms, job.seq) > (after_at, after_seq) order by job.due_ms, job.seq limit 501)
      union all
      (select never, job.seq from redisjobs.jobs job where job.queue = q and place = 'suspended'
        and job.due_ms is null
        and job.seq > case when after_at < never then 0 else after_seq end order by job.due_ms, job.seq limit 501)
    ) found order by found.at, found.seq limit 501;
  elsif state = 'dead' and kind_of <> '' then
    return query select 0::bigint, job.seq
      from redisjobs.jobs job where job.queue = q and place = 'dead' and kind = kind_of and job.seq < after_seq
      order by job.seq desc limit 501;
  else
    return query select 0::bigint, job.seq
      from redisjobs.jobs job where job.queue = q and place = state and place in ('dead', 'completed', 'cancelled')
      and job.seq < after_seq order by job.seq desc limit 501;
  end if;
end $$;

-- Return the kind of failure that a dead letter counts under: its fingerprint, or its reason if it has none.
create function redisjobs_f._kind_of(extra jsonb) returns text language sql immutable as $$
  select coalesce(nullif(extra ->> 'fingerprint', ''), extra ->> 'reason', '')
$$;

-- Return when a job was pushed, died or ended, as its field says. If the field is no time, return when the job
-- came to its place.
create function redisjobs_f._time_of(job redisjobs.jobs) returns bigint language sql immutable as $$
  select case when said ~ '^[0-9]{1,15}$' then said::bigint else job.since_ms end
  from (select job.extra ->> case job.place when 'dead' then 'failed_at' when 'completed' then 'finished_at'
    when 'cancelled' then 'finished_at' else 'queued_at' end) as field (said)
$$;

-- Return whether a job passes a filter {name, text, fingerprint, reason, worker, until_ms}. A missing part matches
-- every job.
create function redisjobs_f._passes(job redisjobs.jobs, wanted jsonb) returns boolean language sql immutable as $$
  select (not wanted ? 'name' or job.name = wanted ->> 'name')
    and (not wanted ? 'reason' or job.extra ->> 'reason' is not distinct from wanted ->> 'reason')
    and (not wanted ? 'fingerprint' or redisjobs_f._kind_of(job.extra) = wanted ->> 'fingerprint')
    and (not wanted ? 'worker' or coalesce(nullif(job.worker, ''), job.extra ->> 'worker',
      '') = wanted ->> 'worker')
    and (not wanted ? 'until_ms' or redisjobs_f._time_of(job) <= (wanted ->> 'until_ms')::bigint)
    and (not wanted ? 'text' or strpos(job.parameters, wanted ->> 'text') > 0
      or strpos(job.extra ->> 'error', wanted ->> 'text') > 0)
$$;

-- Look at up to 500 jobs of a state, or about 1 MB, and return the first `most` that pass. Return their seqs in
-- order, and the place after which the next step begins, '' at the end. `wanted` is the filter of `_passes`, with
-- older_ms in place of until_ms.
create function redisjobs_f._step(q text, state text, after_at bigint, after_seq bigint, wanted jsonb,
  most integer, now_ms bigint, out seqs bigint[], out after text)
  language plpgsql stable as $$
declare
  is_newest_first constant boolean := state in ('dead', 'completed', 'cancelled');
  since constant jsonb := case when wanted ? 'older_ms'
    then wanted || jsonb_build_object('until_ms', now_ms - (wanted ->> 'older_ms')::numeric) else wanted end;
begin
  with places as materialized (
    select * from redisjobs_f._places(q, state, after_at, after_seq, coalesce(wanted ->> 'fingerprint', ''),
      coalesce(wanted ->> 'worker', '')) with ordinality as place (at, seq, n)
  ), sized as (
    select p.n, p.at, p.seq, job, sum(octet_length(job.parameters) + coalesce(pg_column_size(job.extra), 0))
      over (order by p.n) as bytes
    from places p join redisjobs.jobs job on job.seq = p.seq
  ), read as materialized (
    select s.n, s.at, s.seq, coalesce(redisjobs_f._passes(s.job, since), false) as passes
    from sized s where s.n = 1 or (s.n <= 500 and s.bytes < 1048576)
  ), counted as (
    select r.*, coalesce(sum(r.passes::integer)
      over (order by r.n rows between unbounded preceding and 1 preceding), 0)
      as before from read r
  )
  select coalesce(array_agg(c.seq order by c.n) filter (where c.passes), '{}'),
    case when max(c.n) < (select count(*) from places)
      then (array_agg(c.at || ' ' || case when is_newest_first then -c.seq else c.seq end
        order by c.n desc))[1] end
  into seqs, after from counted c where c.before < most;
end $$;

create function redisjobs_f.scan(q text, given_ms bigint, state text, after_at bigint, after_seq bigint,
  wanted jsonb, most integer)
  returns table (meta text, id text, name text, parameters text, extra text, nonce text, unique_key text,
    limit_key text, history text)
  language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  step constant record := redisjobs_f._step(q, state, after_at, after_seq, wanted, most, now_ms);
begin
  return query select * from redisjobs_f._rows(q, step.seqs, now_ms);
  meta := redisjobs_f._answer(jsonb_build_object('now', now_ms, 'after', coalesce(step.after, '')));
  return next;
end $$;

-- Kinds of failure, and counts

-- Return the next kind of dead letters after a kind; null to begin, and at the end. Each kind takes one look at
-- the index, so the cost of a step depends on its own kinds only.
create function redisjobs_f._next_kind(q text, after_kind text) returns text language plpgsql stable as $$
begin
  if after_kind is null then
    return (select j.kind from redisjobs.jobs j where j.queue = q and j.place = 'dead' order by j.kind limit 1);
  end if;
  return (select j.kind from redisjobs.jobs j where j.queue = q and j.place = 'dead' and j.kind > after_kind
    order by j.kind limit 1);
end $$;

-- Describe a kind of dead letters by its newest ten letters, and count them. Null: there are none. A text is cut
-- after 1,000 characters. `recent` counts the letters of each five minutes of the last hour, by how many times
-- five minutes have passed since.
create function redisjobs_f._described(q text, of_kind text, now_ms bigint)
  returns jsonb language plpgsql stable as $$
begin
  return (with ages as (
    select least((now_ms - j.since_ms) / 300000, 12) as age, count(*) as many, min(j.since_ms) as first_ms,
      max(j.since_ms) as last_ms
    from redisjobs.jobs j where j.queue = q and j.place = 'dead' and j.kind = of_kind group by 1
  ), ten as (
    -- A range, because only one index has this order; see README.md.
    select j.id, j.name, j.seq, j.extra from redisjobs.jobs j
    where j.queue = q and j.place = 'dead' and j.kind >= of_kind and j.kind <= of_kind
    order by j.kind desc, j.seq desc limit 10
  ), counted as (
    select sum(a.many) as many, min(a.first_ms) as first_ms, max(a.last_ms) as last_ms,
      jsonb_object_agg(a.age, a.many) as recent
    from ages a
  )
  select jsonb_build_object('kind', of_kind, 'count', c.many, 'first', c.first_ms, 'last', c.last_ms,
    'reason', left(newest.extra ->> 'reason', 1000), 'error_type', left(newest.extra ->> 'error_type', 1000),
    'id', newest.id, 'error', left(newest.extra ->> 'error', 1000), 'recent', c.recent,
    'names', (select jsonb_agg(left(t.name, 1000) order by t.seq desc) from ten t))
  from counted c, (select * from ten order by seq desc limit 1) newest);
end $$;

-- Describe the kinds of dead letters in order. A step covers up to 50 kinds with about 5,000 letters, after
-- `after_kind`; null to begin. The answer is {kinds, after}; `after` is null at the end.
create function redisjobs_f.group_dead(q text, given_ms bigint, after_kind text)
  returns text language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  kinds jsonb := '[]';
  of_kind text := redisjobs_f._next_kind(q, after_kind);
  letters bigint := 0;
  described jsonb;
begin
  while of_kind is not null loop
    described := redisjobs_f._described(q, of_kind, now_ms);
    kinds := kinds || jsonb_build_array(described);
    letters := letters + (described ->> 'count')::bigint;
    exit when letters >= 5000 or jsonb_array_length(kinds) >= 50;
    of_kind := redisjobs_f._next_kind(q, of_kind);
  end loop;
  return redisjobs_f._answer(jsonb_build_object('kinds', kinds,
    'after', case when redisjobs_f._next_kind(q, of_kind) is not null then of_kind end));
end $$;

-- Count the jobs in each state, and return the counters. The count of a state stops at five million: that takes
-- about half a second. Workers count each minute, and the call that renews their leases waits meanwhile.
create function redisjobs_f.count(q text, given_ms bigint) returns text language plpgsql stable as $$
declare
  most constant bigint := 5000000;
  ready jsonb;
  others jsonb;
  totals jsonb;
begin
  select jsonb_object_agg(ranks.rank, least(most,
    (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'ready'
      and j.rank = ranks.rank order by j.seq limit most) counted)
    + (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place in ('returned', 'alone')
      and j.rank = ranks.rank order by j.seq limit most) counted)
    + (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'parked'
      and j.rank = ranks.rank order by j.seq limit most) counted)
    + (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'line'
      and j.rank::integer = ranks.rank order by j.seq limit most) counted)))
  into ready from (values (0), (1), (2)) ranks (rank);
  others := jsonb_build_object(
    'running', (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'running'
      order by j.worker, j.seq limit most) counted),
    'delayed', (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'delayed'
      order by j.due_ms, j.seq limit most) counted),
    'suspended', (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'suspended'
      order by j.due_ms, j.seq limit most) counted),
    'dead', (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'dead'
      order by j.seq limit most) counted),
    'completed', (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'completed'
      order by j.seq limit most) counted),
    'cancelled', (select count(*) from (select from redisjobs.jobs j where j.queue = q and j.place = 'cancelled'
      order by j.seq limit most) counted));
  select jsonb_object_agg(found.name, found.n) into totals from (
    select each.name, sum(each.n) as n from (
      select name, n from redisjobs.totals where queue = q
      union all
      select name, n from redisjobs.deltas where queue = q
    ) each group by each.name) found;
  return redisjobs_f._answer(others || jsonb_build_object('ready', coalesce(ready, '{}'), 'totals',
    coalesce(totals, '{}')));
end $$;

-- Return for each priority since when its first ready jobs have been ready, as [rank, ms]. Also return the delayed
-- job that was due first, if it is due, and the number of workers.
create function redisjobs_f.backlog(q text, given_ms bigint) returns text language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  since jsonb;
begin
  select jsonb_agg(jsonb_build_array(found.rank, found.ms)) into since from (
    select first.rank, first.since_ms as ms from (values (0::smallint), (1), (2)) as ranks (rank)
    cross join lateral (
      (select job.rank, job.since_ms from redisjobs.jobs job where job.queue = q and job.place = 'ready'
        and job.rank = ranks.rank order by job.seq limit 1)
      union all
      (select job.rank, job.since_ms from redisjobs.jobs job
        where job.queue = q and job.place in ('returned', 'alone')
        and job.rank = ranks.rank order by job.seq limit 1)
    ) first
    union all
    select due.rank, due.due_ms from (select job.rank, job.due_ms from redisjobs.jobs job
      where job.queue = q and job.place = 'delayed' order by job.due_ms, job.seq limit 1) due
        where due.due_ms <= now_ms
  ) found;
  return redisjobs_f._answer(jsonb_build_object('now', now_ms, 'since', coalesce(since, '[]'),
    'workers', redisjobs_f._workers(q, now_ms)));
end $$;
