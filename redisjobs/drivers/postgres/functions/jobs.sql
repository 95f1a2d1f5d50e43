-- Functions that change the place of a job.

-- Notify workers of a new job that may be claimed. Of a job that waits for a time, notify its due time, if no
-- other job is due earlier from now on. Earlier times are skipped, because they may only have dead rows of jobs
-- that were due.
create function redisjobs_f._announce(q text, due bigint, now_ms bigint) returns void language plpgsql as $$
begin
  if due is null then
    perform redisjobs_f._tell('ready', '');
  else
    if coalesce(redisjobs_f._next_due(q, now_ms) >= due, true) then
      perform redisjobs_f._tell('due', due::text);
    end if;
  end if;
end $$;

-- Return when the first delayed or suspended job is due, from a time on. Null: none is due.
create function redisjobs_f._next_due(q text, from_ms bigint) returns bigint language plpgsql as $$
begin
  return (select min(due_ms) from (
    (select due_ms from redisjobs.jobs where queue = q and place = 'delayed' and due_ms >= from_ms
      order by due_ms limit 1)
    union all
    (select due_ms from redisjobs.jobs where queue = q and place = 'suspended' and due_ms >= from_ms
      order by due_ms limit 1)
  ) first);
end $$;

-- Put a job at the end of its line. If `due` is in the future, delay the job until then.
create function redisjobs_f._enqueue(q text, old_seq bigint, due bigint, now_ms bigint)
  returns void language plpgsql as $$
declare
  later bigint := case when due > now_ms then due end;
begin
  perform pg_current_xact_id();
  update redisjobs.jobs set seq = nextval('redisjobs.line'),
    place = case when later is null then 'ready' else 'delayed' end,
    since_ms = now_ms, due_ms = later, deliveries = 0, worker = null, at_ms = 0,
    cancelling = false, was_alone = false,
    kind = null
  where seq = old_seq;
  perform redisjobs_f._announce(q, later, now_ms);
end $$;

-- Take a job from its worker, or out of a line. Workers claim it at its old place.
create function redisjobs_f._hand_back(job redisjobs.jobs, counted integer, now_ms bigint)
  returns void language sql as $$
  update redisjobs.jobs set place = 'returned', worker = null, deliveries = greatest(0, counted), at_ms = now_ms,
    history = job.history
  where seq = job.seq
$$;

create function redisjobs_f._park(job redisjobs.jobs, now_ms bigint) returns void language sql as $$
  update redisjobs.jobs set place = 'parked', worker = null where seq = job.seq
$$;

-- Lock jobs in the order of their places in line. Every call that locks several jobs uses this order.
create function redisjobs_f._lock_jobs(seqs bigint[]) returns void language plpgsql as $$
begin
  perform redisjobs_f._need_read_committed();
  perform j.seq from unnest(seqs) s(seq) join redisjobs.jobs j on j.seq = s.seq order by s.seq for update of j;
end $$;

-- Promote jobs that are due, from a time on: up to 500 delayed and 50 suspended jobs, which take equally long.
-- Return when the next job is due.
create function redisjobs_f._promote(q text, due_from bigint, now_ms bigint) returns bigint language plpgsql as $$
declare
  next_ms constant bigint := redisjobs_f._next_due(q, due_from);
begin
  if next_ms is null or next_ms > now_ms then
    return next_ms;
  end if;
  perform pg_current_xact_id();
  with due as materialized (
    select seq from redisjobs.jobs where queue = q and place = 'delayed'
      and due_ms >= due_from and due_ms <= now_ms
    order by due_ms, seq limit 500 for update skip locked
  ), numbered as materialized (
    select seq, nextval('redisjobs.line') as fresh from (
      select d.seq from due d join redisjobs.jobs j using (seq) order by j.due_ms, j.seq
    ) in_order
  )
  update redisjobs.jobs j set seq = n.fresh, since_ms = now_ms, due_ms = null,
    place = case when exists (select from redisjobs.rules r
      where r.queue = q and r.kind = 'held' and r.name = j.id)
      then 'parked' else 'ready' end
  from numbered n where j.seq = n.seq;
  perform redisjobs_f._wake(q, array(
    select seq from redisjobs.jobs where queue = q and place = 'suspended'
      and due_ms >= due_from and due_ms <= now_ms
    order by due_ms, seq limit 50 for update skip locked), null, null, now_ms);
  perform redisjobs_f._tell('ready', '');
  return redisjobs_f._next_due(q, due_from);
end $$;
