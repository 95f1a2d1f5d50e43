-- Tidying: parked jobs and lines that were left behind, children of cancelled parents, jobs whose retention has
-- ended, rows that are no longer needed, counters.

-- Run one step of tidying. The answer is {after, trimmed}. after: the duty and the place of the next step, '' at
-- the end. trimmed: the number of deleted jobs. The place is numbers, or a line as JSON. The first step, of duty
-- '', does nothing if a run began less than 55 seconds ago.
create function redisjobs_f.tidy(q text, given_ms bigint, duty text, places bigint[], line text) returns text
language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  next_place text;
  trimmed integer := 0;
begin
  if duty = '' then
    perform redisjobs_f._identify();
  end if;
  if duty = '' and not redisjobs_f._begin_tidying(q, now_ms) then
    next_place := '';
  elsif duty in ('', 'unpark') then
    if duty = '' then
      -- workers that joined before a switch to another server keep running after it
      perform redisjobs_f._refuse_behind(q);
      perform redisjobs_f._note_line(q, now_ms);
      perform redisjobs_f._fence_unknown(q, now_ms);
    end if;
    if redisjobs_f._try_lock(q) then
      next_place := redisjobs_f._unpark(q, coalesce(places[1], -1)::smallint, coalesce(places[2], 0), now_ms);
    end if;
    next_place := case when next_place <> '' then 'unpark ' || next_place else 'lines' end;
  elsif duty = 'lines' then
    next_place := redisjobs_f._tidy_lines(q, line, now_ms);
    next_place := case when next_place <> '' then 'lines ' || next_place else 'buckets' end;
  elsif duty = 'buckets' then
    next_place := case when redisjobs_f._drop_buckets(q, now_ms) then 'buckets' else 'children' end;
  elsif duty = 'children' then
    next_place := case when redisjobs_f._cancel_some(q, now_ms) then 'children' else 'trim' end;
  else
    select t.trimmed, t.next_place into trimmed, next_place from redisjobs_f._trim(q, places, now_ms) t;
    perform redisjobs_f._rotate(now_ms);
  end if;
  return redisjobs_f._answer(jsonb_build_object('after', next_place, 'trimmed', trimmed));
end $$;

-- Note that tidying begins. False: it began less than 55 seconds ago.
create function redisjobs_f._begin_tidying(q text, now_ms bigint) returns boolean language plpgsql as $$
begin
  insert into redisjobs.settings values (q, 'tidied', '', now_ms)
    on conflict (queue, name) do update set at_ms = excluded.at_ms
    where not (settings.at_ms <= now_ms and now_ms < settings.at_ms + 55000);
  return found;
end $$;

-- Delete up to 500 jobs of each state whose retention has ended, and some rows that are no longer needed. `places`
-- has for dead, completed and cancelled jobs the newest job that is one too many. Without `places`, look them up.
create function redisjobs_f._trim(q text, places bigint[], now_ms bigint, out trimmed integer, out next_place text)
language plpgsql as $$
declare
  states constant text[] := array['dead', 'completed', 'cancelled'];
  up_to constant bigint[] := case when cardinality(places) = 3 then places
    else array(select redisjobs_f._last_over(q, s) from unnest(states) s) end;
  number integer;
  has_more boolean := false;
begin
  trimmed := 0;
  for i in 1..3 loop
    number := redisjobs_f._trim_state(q, states[i], up_to[i], now_ms);
    trimmed := trimmed + number;
    has_more := has_more or number = 500;
  end loop;
  perform redisjobs_f._count(q, 'trimmed', trimmed);
  has_more := redisjobs_f._clear(q, now_ms) or has_more;
  perform redisjobs_f._clear_keys(q, now_ms);
  has_more := redisjobs_f._fold(q) or has_more;
  next_place := case when has_more then 'trim ' || array_to_string(up_to, ' ') else '' end;
end $$;

-- Return the newest job of a state that is one too many, by count alone. 0: there is none.
create function redisjobs_f._last_over(q text, state text) returns bigint language plpgsql as $$
declare
  kept constant text := redisjobs_f._retained(q, state);
  last_over bigint;
begin
  if kept is null then
    return 9223372036854775807;
  elsif split_part(kept, ' ', 2) <> '-' then
    select j.seq into last_over from redisjobs.jobs j
      where j.queue = q and j.place = state and j.place in ('dead', 'completed', 'cancelled')
      order by j.seq desc offset split_part(kept, ' ', 2)::bigint limit 1;
  end if;
  return coalesce(last_over, 0);
end $$;

-- Look at the 500 oldest jobs of a state, and delete jobs that are too many or too old. Return the number deleted.
create function redisjobs_f._trim_state(q text, state text, up_to bigint, now_ms bigint) returns integer
language plpgsql as $$
declare
  age_ms constant bigint := nullif(split_part(redisjobs_f._retained(q, state), ' ', 1), '-')::bigint;
  total integer := 0;
  job redisjobs.jobs;
begin
  for job in
    with oldest as materialized (
      select j.seq, j.since_ms from redisjobs.jobs j
      where j.queue = q and j.place = state and j.place in ('dead', 'completed', 'cancelled')
        order by j.seq limit 500
    ), over as materialized (
      select j.seq from oldest o cross join lateral (
        select each.seq from redisjobs.jobs each where each.seq = o.seq for update skip locked) j
      where o.seq <= up_to or o.since_ms <= now_ms - age_ms
    )
    delete from redisjobs.jobs j using over o where j.seq = o.seq returning j.*
  loop
    total := total + 1;
    if state = 'dead' then  -- in other states, a new job may have the id by now
      perform redisjobs_f._forget_steps(job);
    end if;
    if job.since_ms > now_ms - 60000 then
      perform redisjobs_f._remember_end(job, now_ms);
    end if;
  end loop;
  return total;
end $$;

-- Delete rows that are no longer needed, up to 1,000 of each table. Return whether there may be more.
create function redisjobs_f._clear(q text, now_ms bigint) returns boolean language plpgsql as $$
declare
  number integer;
begin
  update redisjobs.results r set value = null where r.ctid = any (array(
    select o.ctid from redisjobs.results o where o.queue = q and o.value_until_ms <= now_ms and o.value is not null
    limit 1000 for update skip locked));
  get diagnostics number = row_count;
  return number = 1000
    or redisjobs_f._delete_over(q, 'results', 'until_ms', now_ms) = 1000
    or redisjobs_f._delete_over(q, 'progress', 'until_ms', now_ms) = 1000
    or redisjobs_f._delete_over(q, 'uniques', 'until_ms', now_ms) = 1000
    or redisjobs_f._delete_over(q, 'recorded', 'until_ms', now_ms) = 1000
    or redisjobs_f._clear_waiters(q, now_ms) = 1000
    or redisjobs_f._clear_chunks(q, now_ms);
end $$;

create function redisjobs_f._delete_over(q text, from_table text, by_column text, now_ms bigint) returns integer
language plpgsql as $$
declare
  number integer;
begin
  execute format('delete from redisjobs.%1$I where ctid = any (array(
    select ctid from redisjobs.%1$I where queue = $1 and %2$I <= $2 limit 1000 for update skip locked))',
    from_table, by_column) using q, now_ms;
  get diagnostics number = row_count;
  return number;
end $$;

-- Delete processes that were noted an hour ago for a job that has ended. This happens if a process was noted just
-- as its job ended. Processes that still wait are checked again an hour later.
create function redisjobs_f._clear_waiters(q text, now_ms bigint) returns integer language plpgsql as $$
declare
  number integer;
begin
  with oldest as materialized (
    select w.ctid, w.id from redisjobs.waiters w where w.queue = q and w.at_ms <= now_ms - 3600000
    order by w.at_ms limit 1000 for update skip locked
  ), old as materialized (
    select o.ctid, (select true from redisjobs.jobs j where j.queue = q and j.id = o.id
      and j.place not in ('completed', 'cancelled') and j.place <> 'dead') as waits from oldest o
  ), gone as (
    delete from redisjobs.waiters w where w.ctid = any (array(select o.ctid from old o where o.waits is null))
  ), still as (
    update redisjobs.waiters w set at_ms = now_ms
    where w.ctid = any (array(select o.ctid from old o where o.waits))
  )
  select count(*) into number from old;
  return number;
end $$;

-- Return whether a transaction has held a snapshot for half a minute. Then deleted rows stay, and every scan walks
-- over them.
create function redisjobs_f._is_pinned() returns boolean language plpgsql stable as $$
begin
  return redisjobs_f._pins(30000) <> '[]';
end $$;

-- Fold up to 10,000 changes of counters into their totals. Return whether there may be more.
create function redisjobs_f._fold(q text) returns boolean language plpgsql as $$
declare
  number bigint;
begin
  if redisjobs_f._is_pinned() then
    return false;
  end if;
  with folded as (
    delete from redisjobs.deltas where ctid = any (array(
      select d.ctid from redisjobs.deltas d where d.queue = q limit 10000 for update skip locked))
    returning name, n
  ), added as (
    insert into redisjobs.totals as t (queue, name, n)
    select q, f.name, sum(f.n) from folded f group by f.name order by f.name
    on conflict (queue, name) do update set n = t.n + excluded.n
  )
  select count(*) into number from folded;
  return number = 10000;
end $$;

-- Fence workers that run jobs or have renewed a lease although the queue does not know them: their rows were
-- deleted. `reclaim` hands back their jobs, and forgets the workers.
create function redisjobs_f._fence_unknown(q text, now_ms bigint) returns void language plpgsql as $$
begin
  insert into redisjobs.fenced select q, unknown, now_ms from unnest(redisjobs_f._unknown(q)) unknown
  on conflict do nothing;
end $$;

create function redisjobs_f._unknown(q text) returns text[] language plpgsql as $$
begin
  return array(
    with recursive running (worker) as (
      (select j.worker from redisjobs.jobs j where j.queue = q and j.place = 'running' order by j.worker limit 1)
      union all
      select (select j.worker from redisjobs.jobs j where j.queue = q and j.place = 'running'
        and j.worker > r.worker
        order by j.worker limit 1) from running r where r.worker is not null
    )
    select each.id from (
      select r.worker from running r where r.worker is not null
      union select b.id from redisjobs.beats b where b.queue = q
    ) each (id)
    where (select true from redisjobs.workers w where w.queue = q and w.id = each.id) is null
    and (select true from redisjobs.fenced f where f.queue = q and f.id = each.id) is null
  );
end $$;
