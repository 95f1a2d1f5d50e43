-- Claims: how a worker gets jobs.

-- Lease new jobs of a priority from a place on: up to `most` jobs, and about `most_bytes`.
create function redisjobs_f._claim(q text, worker_id text, wanted smallint, most integer, from_seq bigint,
  most_bytes bigint, now_ms bigint)
  returns setof redisjobs.jobs language plpgsql rows 100 as $$
begin
  return query
  with picked as materialized (
    select ctid as at, seq, octet_length(parameters) as bytes from redisjobs.jobs
    where queue = q and rank = wanted and place = 'ready' and seq >= from_seq
    order by seq limit most for no key update skip locked  -- a process that begins to wait does not block a claim
  ), sized as (
    select at, sum(bytes) over (order by seq) - bytes as before from picked
  ), taken as (
    update redisjobs.jobs j set place = 'running', worker = worker_id,
      deliveries = j.deliveries + 1, at_ms = now_ms
    from sized s where j.ctid = s.at and s.before < most_bytes  -- a locked row keeps its ctid
    returning j.*
  )
  select * from taken order by seq;
end $$;

-- Claim up to `most` jobs of a priority that may start at once: none was handed back, and no rule applies. Look
-- from `starts_at` on, where the worker's last claim ended. If that is not enough, look from `from_seq` on; no job
-- before that place is ready.
create function redisjobs_f._claim_new(q text, worker_id text, wanted smallint, most integer, starts_at bigint,
  from_seq bigint, most_bytes bigint, now_ms bigint)
  returns setof redisjobs.jobs language plpgsql rows 100 as $$
declare
  found_jobs integer;
begin
  return query select * from redisjobs_f._claim(q, worker_id, wanted, most,
    greatest(starts_at, from_seq), most_bytes, now_ms);
  get diagnostics found_jobs = row_count;
  if found_jobs < most and starts_at > from_seq then
    return query select * from redisjobs_f._claim(q, worker_id, wanted, most - found_jobs,
      from_seq, most_bytes, now_ms);
  end if;
end $$;

-- Return whether jobs of a queue are restricted: names are paused, jobs are held, or there are limits.
create function redisjobs_f._rules(q text, out is_paused boolean, out names text[], out has_held boolean,
  out has_limits boolean) language plpgsql as $$
begin
  is_paused := false;
  names := '{}';
  has_held := false;
  has_limits := false;
  if exists (select from redisjobs.rules where queue = q) then
    select coalesce(bool_or(kind = 'queue'), false), coalesce(array_agg(name) filter (where kind = 'name'), '{}'),
      coalesce(bool_or(kind = 'held'), false), coalesce(bool_or(kind = 'limit'), false)
    into is_paused, names, has_held, has_limits from redisjobs.rules where queue = q;
  end if;
end $$;

-- Claim jobs when some were handed back, or when rules decide which jobs may start. Look at jobs one by one, up to
-- `most_looks`, and write all that start in one statement. `turned`: jobs of this priority that may leave their
-- lines.
create function redisjobs_f._claim_each(q text, worker_id text, wanted smallint, most integer, from_seq bigint,
  most_bytes bigint, max_deliveries integer, runs_nothing boolean, only_new boolean, names text[],
  has_limits boolean, turned bigint[], most_looks integer, now_ms bigint, inout full_ones text[],
  out claimed redisjobs.jobs[], out ended jsonb, out is_alone boolean, out looked integer)
  language plpgsql as $$
declare
  job redisjobs.jobs;
  after_seq bigint := 0;
  room integer;
  step integer;
  step_looked integer;
  bytes bigint := 0;
  step_bytes bigint;
  is_last boolean;
  may_be_last boolean;
  starting bigint[];
  lined bigint[];
  all_lined bigint[] := '{}';
  parked bigint[];
  alone bigint[];
  started redisjobs.jobs[];
begin
  claimed := '{}';
  ended := '[]';
  is_alone := false;
  looked := 0;
  loop
    room := most - cardinality(claimed);
    exit when room <= 0 or bytes >= most_bytes or looked >= most_looks or is_alone;
    step := least(most_looks - looked, greatest(room, 50));
    step_looked := 0;
    step_bytes := bytes;
    starting := '{}';
    parked := '{}';
    alone := '{}';
    for job in
      select j.* from (
        select each.seq from (
          (select j.seq from redisjobs.jobs j where j.queue = q and j.rank = wanted and j.place = 'ready'
            and j.seq >= greatest(from_seq, after_seq + 1) order by j.seq limit step)
          union all
          (select j.seq from redisjobs.jobs j where j.queue = q and j.rank = wanted
            and j.place in ('returned', 'alone')
            and j.seq > after_seq and not only_new order by j.seq limit step)
          union all
          (select t from unnest(turned) t where t > after_seq)
        ) each order by each.seq limit step
      ) candidate cross join lateral (
        select * from redisjobs.jobs each where each.seq = candidate.seq
          and case each.place when 'line' then each.seq = any(turned)
            else each.place in ('ready', 'returned', 'alone') end
        for no key update skip locked
      ) j order by candidate.seq
    loop
      is_last := job.place <> 'ready' and job.deliveries + 1 >= max_deliveries and max_deliveries > 1;
      may_be_last := runs_nothing and cardinality(claimed) = 0;
      -- This job comes next, if the others don't start.
      exit when may_be_last and (is_last or job.place = 'alone') and starting <> '{}';
      step_looked := step_looked + 1;
      after_seq := job.seq;
      continue when job.place = 'alone' and not may_be_last;
      if job.cancelling then
        delete from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = job.id;
        perform redisjobs_f._finish(job, 'cancelled', jsonb_build_object('deliveries', job.deliveries::text),
          now_ms);
        ended := ended || jsonb_build_array(jsonb_build_array(job.id, 'CANCELLED'));
      elsif job.name = any(names) or job.place <> 'ready'  -- held jobs that are ready are parked already
        and exists (select from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = job.id) then
        parked := parked || job.seq;
      elsif job.place <> 'ready' and job.deliveries + 1 > max_deliveries
        and (job.was_alone or max_deliveries = 1) then
        perform redisjobs_f._dead_letter(job,
          jsonb_build_object('reason', 'worker lost', 'worker', worker_id, 'error',
          format('delivered %s times without an outcome%s: it may kill its workers', job.deliveries,
            case when job.was_alone then ', the last time with nothing beside it' else '' end)), now_ms);
        ended := ended || jsonb_build_array(jsonb_build_array(job.id, 'DEAD'));
      elsif is_last and not may_be_last then
        alone := alone || job.seq;
      else
        starting := starting || job.seq;
        step_bytes := step_bytes + octet_length(job.parameters);
        exit when is_last or step_bytes >= most_bytes or cardinality(starting) >= room and not has_limits;
        continue;
      end if;
      if has_limits and job.place <> 'ready' then
        perform redisjobs_f._pass_turn(job, now_ms);
      end if;
    end loop;
    exit when step_looked = 0;
    looked := looked + step_looked;
    if parked <> '{}' or alone <> '{}' then
      update redisjobs.jobs j set place = case when j.seq = any(parked) then 'parked' else 'alone' end
      from unnest(parked || alone) s(seq) where j.seq = s.seq;
    end if;
    if has_limits and starting <> '{}' then
      select * into full_ones, starting, lined from redisjobs_f._start(q, starting, room, now_ms, full_ones);
      all_lined := all_lined || lined;
    end if;
    if starting <> '{}' then
      is_alone := is_last and starting = array[job.seq];
      with taken as (
        update redisjobs.jobs j set place = 'running', worker = worker_id,
          deliveries = j.deliveries + 1, at_ms = now_ms,
          was_alone = is_alone
        from unnest(starting) s(seq) where j.seq = s.seq returning j.*
      )
      select array_agg(row(t.*)::redisjobs.jobs order by t.seq), bytes + sum(octet_length(t.parameters))
      into started, bytes from taken t;
      claimed := claimed || started;
    end if;
  end loop;
  perform redisjobs_f._leave_lines(turned, all_lined, now_ms);
end $$;

-- Return whether jobs of a queue wait to be claimed and no rule stops them.
create function redisjobs_f._any_waits(q text, from_seqs bigint[]) returns boolean language plpgsql as $$
begin
  for wanted in 0..2 loop
    if redisjobs_f._any_ready(q, wanted::smallint, from_seqs[wanted + 1]) then
      return true;
    end if;
  end loop;
  return redisjobs_f._any_returned(q);
end $$;

-- Return whether a priority has a ready job from a place on.
create function redisjobs_f._any_ready(q text, wanted smallint, from_seq bigint)
  returns boolean language plpgsql as $$
declare
  first bigint;
begin
  select seq into first from redisjobs.jobs
  where queue = q and rank = wanted and place = 'ready' and seq >= from_seq order by seq limit 1;
  return found;
end $$;

-- Return whether any job was handed back and waits to be claimed again.
create function redisjobs_f._any_returned(q text) returns boolean language plpgsql as $$
declare
  first bigint;
begin
  select seq into first from redisjobs.jobs where queue = q and place in ('returned', 'alone')
  order by rank, seq limit 1;
  return found;
end $$;
