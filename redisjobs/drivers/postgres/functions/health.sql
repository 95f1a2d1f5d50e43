-- The audit of a queue checks that its tables agree with each other. A step looks at up to 500 things at one
-- instant, so a busy queue shows no false faults.

-- Return the fault of a job that has not ended. Null: it has none.
create function redisjobs_f._fault_of(job redisjobs.jobs, now_ms bigint) returns text language plpgsql stable as $$
begin
  return case
    when job.place not in ('ready', 'returned', 'alone', 'parked', 'line', 'delayed',
      'suspended', 'running', 'dead')
      or job.rank not between 0 and 2 then 'no place'
    when job.due_ms is null and (job.place = 'delayed' or job.place = 'suspended'
      and redisjobs_f._awaited_ms(job) is not null)
      then 'no due time'
    when job.place = 'suspended' and redisjobs_f._has_no_children(job) then 'waits'
    when job.place = 'dead' and job.kind is distinct from redisjobs_f._kind_of(job.extra) then 'group'
    when job.place = 'running'
      and not exists (select from redisjobs.workers w where w.queue = job.queue and w.id = job.worker)
      and not exists (select from redisjobs.fenced f where f.queue = job.queue and f.id = job.worker)
        then 'no record'
    when job.place = 'parked' and not exists (select from redisjobs.rules r
      where r.queue = job.queue and (r.kind, r.name) in (('held', job.id), ('name', job.name)))
      -- A name was resumed, and the tidying, which runs each minute, has not handed its jobs back yet.
      and not exists (select from redisjobs.settings s where s.queue = job.queue and s.name = 'resumed'
        and s.at_ms between now_ms - 120000 and now_ms) then 'parked'
    end;
end $$;

-- Return until when a suspended job waits at the latest, as its field says. If the field says nothing, the wait is
-- over. Null: the job waits for ever.
create function redisjobs_f._awaited_ms(job redisjobs.jobs) returns bigint language sql immutable as $$
  select case when job.extra ? 'waits' then substring(job.extra ->> 'waits' from ' ([0-9]{1,16})$')::bigint
    else 0 end
$$;

-- Return whether a suspended job waits for children although no child can still end.
create function redisjobs_f._has_no_children(job redisjobs.jobs) returns boolean language plpgsql stable as $$
declare
  its_key constant text := substring(job.extra->>'waits' from '^[0-9]+ children (\S+)');
begin
  return its_key is not null and not exists (select from redisjobs.groups g
    where g.queue = job.queue and g.pending > 0
    and g.token = (select s.value from redisjobs.steps s
      where s.queue = job.queue and s.id = job.id and s.key = its_key));
end $$;

-- Return whether a group of children belongs to no job and to no pending cancellation, given its token.
create function redisjobs_f._is_orphaned(q text, its_token text) returns boolean language plpgsql stable as $$
declare
  its_group redisjobs.groups;
begin
  select * into its_group from redisjobs.groups g where g.queue = q and g.token = its_token;
  return coalesce(its_group.pending, 0) <= 0
    and not exists (select from redisjobs.cancelling c where c.queue = q and c.token = its_token)
    and not exists (select from redisjobs.steps s where s.queue = q and s.id = its_group.parent
      and s.key = its_group.key
      and s.value = its_token);
end $$;

-- Return groups whose outcomes are kept: up to 500 after one, each found by one step in the index.
create function redisjobs_f._tokens_after(q text, after text) returns table (token text) language sql stable as $$
  with recursive each as (
    (select c.token from redisjobs.children c where c.queue = q and c.token > after order by c.token limit 1)
    union all
    select (select c.token from redisjobs.children c where c.queue = q and c.token > each.token
      order by c.token limit 1)
    from each where each.token is not null
  )
  select * from each where each.token is not null limit 500
$$;

-- Return whether a job is on the queue and has not ended.
create function redisjobs_f._lives(q text, job_id text) returns boolean language sql stable as $$
  select exists (select from redisjobs.jobs where queue = q and id = job_id
    and place not in ('completed', 'cancelled'))
$$;

-- Return whether jobs of a bucket wait in line and nothing gives them a turn: no job of it runs, and no time is
-- set.
create function redisjobs_f._is_stuck(q text, of_name text, of_key text) returns boolean language sql stable as $$
  select exists (select from redisjobs.jobs job where job.queue = q and job.place = 'line' and job.name = of_name
      and coalesce(job.limit_key, '') = of_key)
    and not exists (select from redisjobs.buckets b where b.queue = q and b.name = of_name and b.key = of_key
      and b.is_open and b.turn_ms is not null)
    and not exists (select from redisjobs.shares s where s.queue = q and s.name = of_name and s.key = of_key)
    and not exists (select from redisjobs.rules r where r.queue = q and r.kind = 'name' and r.name = of_name)
$$;

-- Count the jobs that have a share of a bucket.
create function redisjobs_f._running_in(q text, of_name text, of_key text)
  returns integer language sql stable as $$
  select count(*)::integer from redisjobs.shares s where s.queue = q and s.name = of_name and s.key = of_key
$$;

-- Return buckets whose lines have waiting jobs: up to 500 after one, each found by one step in the index.
create function redisjobs_f._lines_after(q text, after_name text, after_key text)
  returns table (name text, key text)
  language sql stable as $$
  with recursive line as (
    (select job.name, coalesce(job.limit_key, '') as key from redisjobs.jobs job
      where job.queue = q and job.place = 'line'
      and (job.name, coalesce(job.limit_key, '')) > (after_name, after_key) order by 1, 2 limit 1)
    union all
    select following.* from line cross join lateral (
      select job.name, coalesce(job.limit_key, '') as key from redisjobs.jobs job
      where job.queue = q and job.place = 'line'
        and (job.name, coalesce(job.limit_key, '')) > (line.name, line.key) order by 1, 2 limit 1) following
  )
  select * from line limit 500
$$;

-- Look at up to 500 things of a part, after one. Return for each its key, its fault, its name in a report, and the
-- name of the job if it waits.
create function redisjobs_f._look_at(q text, part text, after text, now_ms bigint)
returns table (key text, kind text, what text, waits text) language plpgsql stable as $$
begin
  case part
  when 'jobs' then
    return query select job.id, redisjobs_f._fault_of(job, now_ms), job.id,
      case when job.place not in ('delayed', 'suspended', 'running', 'dead') then job.name end
    from redisjobs.jobs job where job.queue = q and job.place not in ('completed', 'cancelled') and job.id > after
    order by job.id limit 500;
  when 'lines' then
    return query select jsonb_build_array(line.name, line.key)::text,
      case when redisjobs_f._is_stuck(q, line.name, line.key) then 'line' end,
      concat_ws(' ', line.name, nullif(line.key, '')), null::text
    from redisjobs_f._lines_after(q, coalesce(nullif(after, '')::jsonb ->> 0, ''),
      coalesce(nullif(after, '')::jsonb ->> 1, '')) line;
  when 'uniques' then
    return query select u.key, case when u.until_ms < now_ms - 3600000 then 'overdue' end, u.key, null::text
    from redisjobs.uniques u where u.queue = q and u.key > after order by u.key limit 500;
  when 'held' then
    return query select r.name, case when not redisjobs_f._lives(q, r.name) then 'held' end, r.name, null::text
    from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name > after order by r.name limit 500;
  when 'shares' then
    return query select s.seq::text, case when not exists (select from redisjobs.jobs job where job.seq = s.seq
        and job.place = 'running') then 'share' end, s.id, null::text
    from redisjobs.shares s where s.queue = q and s.seq > coalesce(nullif(after, '')::bigint, 0)
    order by s.seq limit 500;
  when 'buckets' then
    return query select jsonb_build_array(b.name, b.key)::text, case
      when b.running <> redisjobs_f._running_in(q, b.name, b.key)
      then 'share' end, concat_ws(' ', b.name, nullif(b.key, '')), null::text
    from (select distinct on (each.name, each.key) each.name, each.key, each.running from redisjobs.buckets each
      where each.queue = q and (each.name, each.key)
        > (coalesce(nullif(after, '')::jsonb ->> 0, ''), coalesce(nullif(after, '')::jsonb ->> 1, ''))
      order by each.name, each.key, each.number desc limit 500) b;
  when 'waiters' then
    return query select w.id, case when not redisjobs_f._lives(q, w.id) then 'waiters' end, w.id, null::text
    from (select distinct on (each.id) each.id from redisjobs.waiters each where each.queue = q and each.id > after
      order by each.id limit 500) w;
  when 'steps' then
    return query select s.id, case when not redisjobs_f._lives(q, s.id) then 'steps' end, s.id, null::text
    from (select each.id from redisjobs.steps each where each.queue = q and each.id > after and each.key = ''
      order by each.id limit 500) s;
  when 'groups' then
    return query select g.token, case when redisjobs_f._is_orphaned(q, g.token)
      then 'children' end, g.token, null::text
    from redisjobs.groups g where g.queue = q and g.token > after order by g.token limit 500;
  when 'children' then
    return query select c.token, case when redisjobs_f._is_orphaned(q, c.token)
      then 'children' end, c.token, null::text
    from redisjobs_f._tokens_after(q, after) c;
  when 'workers' then
    return query select w.id, case when not exists (select from redisjobs.beats b
      where b.queue = q and b.id = w.id)
      then 'worker' end, w.id, null::text
    from redisjobs.workers w where w.queue = q and w.id > after order by w.id limit 500;
  when 'beats' then
    return query select b.id, case when not exists (select from redisjobs.workers w
      where w.queue = q and w.id = b.id)
      and not exists (select from redisjobs.fenced f where f.queue = q and f.id = b.id)
        then 'worker' end, b.id, null::text
    from redisjobs.beats b where b.queue = q and b.id > after order by b.id limit 500;
  when 'results' then
    return query select r.id, case when r.until_ms < now_ms - 3600000 then 'overdue' end, r.id, null::text
    from redisjobs.results r where r.queue = q and r.id > after order by r.id limit 500;
  when 'progress' then
    return query select p.id, case when p.until_ms < now_ms - 3600000 then 'overdue' end, p.id, null::text
    from redisjobs.progress p where p.queue = q and p.id > after order by p.id limit 500;
  end case;
end $$;

-- Correct a fault if it is still there. A correction loses no job.
create function redisjobs_f._correct(q text, kind_of text, what_of text, key_of text, now_ms bigint) returns void
language plpgsql as $$
declare
  job redisjobs.jobs;
  bucket redisjobs.buckets;
begin
  case kind_of
  when 'no place', 'no due time', 'no record', 'parked', 'group', 'waits' then
    select * into job from redisjobs.jobs j where j.queue = q and j.id = what_of
      and j.place not in ('completed', 'cancelled')
      for update;
    if redisjobs_f._fault_of(job, now_ms) is distinct from kind_of then
      return;
    elsif kind_of = 'group' then
      update redisjobs.jobs j set kind = redisjobs_f._kind_of(j.extra) where j.seq = job.seq;
    elsif kind_of = 'no due time' then
      job.due_ms := case job.place when 'suspended' then redisjobs_f._awaited_ms(job) else now_ms end;
      update redisjobs.jobs j set due_ms = job.due_ms where j.seq = job.seq;
      perform redisjobs_f._tell('due', job.due_ms::text);
    elsif kind_of = 'waits' then
      perform redisjobs_f._wake(q, array[job.seq], 'children',
        array(select s.value from redisjobs.steps s where s.queue = q
        and s.id = job.id and s.key = substring(job.extra->>'waits' from '^[0-9]+ children (\S+)')), now_ms);
      perform redisjobs_f._announce(q, null, now_ms);
    elsif kind_of = 'no record' then
      insert into redisjobs.fenced (queue, id, until_ms) select q, job.worker, now_ms + 5000
      where job.worker is not null
        on conflict (queue, id) do nothing;
      perform redisjobs_f._hand_back_all(q, redisjobs_f._lock_running(q, array[job.worker]), false, now_ms);
      perform redisjobs_f._tell('released', '1');
    else
      update redisjobs.jobs j set rank = 1 where j.seq = job.seq and j.rank not between 0 and 2;
      perform redisjobs_f._hand_back(job, job.deliveries, now_ms);
      perform redisjobs_f._tell('released', '1');
    end if;
  when 'line' then
    perform redisjobs_f._open_line(q, key_of::jsonb ->> 0, key_of::jsonb ->> 1, now_ms);
    perform redisjobs_f._tell('due', now_ms::text);
  when 'held' then
    delete from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = what_of
      and not redisjobs_f._lives(q, what_of);
  when 'share' then
    if left(key_of, 1) = '[' then  -- a bucket that counts its shares
      bucket := redisjobs_f._bucket(q, key_of::jsonb ->> 0, key_of::jsonb ->> 1);
      bucket.running := redisjobs_f._running_in(q, bucket.name, bucket.key);
      perform redisjobs_f._put_buckets(array[bucket], now_ms);
      return;
    end if;
    perform redisjobs_f._give_up(q, array(select s.seq from redisjobs.shares s where s.queue = q and s.id = what_of
      and not exists (select from redisjobs.jobs j where j.seq = s.seq and j.place = 'running')), false, now_ms);
    delete from redisjobs.shares s where s.queue = q and s.seq = key_of::bigint  -- of a name without a limit
      and not exists (select from redisjobs.jobs j where j.seq = s.seq and j.place = 'running');
  when 'waiters' then
    delete from redisjobs.waiters w where w.queue = q and w.id = what_of and not redisjobs_f._lives(q, what_of);
  when 'steps' then
    delete from redisjobs.steps s where s.queue = q and s.id = what_of and not redisjobs_f._lives(q, what_of);
  when 'children' then
    if redisjobs_f._is_orphaned(q, what_of) then
      perform redisjobs_f._forget_groups(q, array[what_of]);
    end if;
  when 'worker' then  -- the other workers fence it, unless it is alive
    insert into redisjobs.beats (queue, id, until_ms) select q, w.id, now_ms + w.lease_ms from redisjobs.workers w
      where w.queue = q and w.id = what_of on conflict (queue, id) do nothing;
    delete from redisjobs.beats b where b.queue = q and b.id = what_of
      and not exists (select from redisjobs.workers w where w.queue = q and w.id = what_of)
      and not exists (select from redisjobs.fenced f where f.queue = q and f.id = what_of);
  when 'overdue' then
    delete from redisjobs.results r where r.queue = q and r.id = what_of and r.until_ms < now_ms - 3600000;
    delete from redisjobs.progress p where p.queue = q and p.id = what_of and p.until_ms < now_ms - 3600000;
    delete from redisjobs.uniques u where u.queue = q and u.key = what_of and u.until_ms < now_ms - 3600000;
  end case;
end $$;

-- Make a step of the audit. The answer is {looked, after, faults, waiting}. after: the last key, null at the end
-- of the part. faults: [[kind, what, key]]. waiting: names of ready jobs, with their numbers.
create function redisjobs_f._step_of_audit(q text, part text, after text, now_ms bigint)
  returns jsonb language sql stable as $$
  with looked as materialized (select * from redisjobs_f._look_at(q, part, after, now_ms)),
    waiting as (select l.waits, count(*) as many from looked l where l.waits is not null group by 1)
  select jsonb_build_object('looked', count(*),
    'after', case when count(*) = 500 then (array_agg(l.key))[500] end,
    'faults', coalesce(jsonb_agg(jsonb_build_array(l.kind, l.what, l.key))
      filter (where l.kind is not null), '[]'),
    'waiting', (select coalesce(jsonb_object_agg(w.waits, w.many), '{}') from waiting w))
  from looked l
$$;

create function redisjobs_f.audit(q text, given_ms bigint, part text, after text)
  returns text language sql stable as $$
  select redisjobs_f._answer(redisjobs_f._step_of_audit(q, part, after, redisjobs_f._now(given_ms)))
$$;

-- Make a step of the audit, and correct the faults that it finds. This is not a part of `audit`, because a role
-- that reads may not write.
create function redisjobs_f.repair(q text, given_ms bigint, part text, after text)
  returns text language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  answer jsonb;
  fault record;
begin
  perform redisjobs_f._lock(q);
  answer := redisjobs_f._step_of_audit(q, part, after, now_ms);
  for fault in select each ->> 0 as kind, each ->> 1 as what, each ->> 2 as key
    from jsonb_array_elements(answer -> 'faults') each
  loop
    perform redisjobs_f._correct(q, fault.kind, fault.what, fault.key, now_ms);
  end loop;
  return redisjobs_f._answer(answer);
end $$;

-- Return the approximate number of things that an audit looks at.
create function redisjobs_f.audited(q text, given_ms bigint) returns text language sql stable as $$
  select redisjobs_f._answer(to_jsonb(
    (select count(*) from redisjobs.jobs where queue = q and place not in ('completed', 'cancelled'))
    + (select count(*) from redisjobs.uniques where queue = q)
    + (select count(*) from redisjobs.rules where queue = q and kind = 'held')
    + (select count(*) from redisjobs.shares where queue = q)
      + (select count(*) from redisjobs.buckets where queue = q)
    + (select count(distinct id) from redisjobs.waiters where queue = q)
    + (select count(*) from redisjobs.steps where queue = q and key = '')
    + (select count(*) from redisjobs.groups where queue = q)
    + (select count(distinct token) from redisjobs.children where queue = q)
    + (select count(*) from redisjobs.workers where queue = q)
      + (select count(*) from redisjobs.beats where queue = q)
    + (select count(*) from redisjobs.results where queue = q)
      + (select count(*) from redisjobs.progress where queue = q)))
$$;
