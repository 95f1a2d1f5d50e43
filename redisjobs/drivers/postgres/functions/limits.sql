-- Limits: which jobs hold a share, which jobs wait in line, and which line has the next turn. No exchange of the
-- queue runs beside these functions (`_lock`). Exceptions are `_pass_turn`, which may run beside itself, and most
-- of the tidying.
--
-- Rows are looked up one by one, by `lateral` with a `limit`. A join may have been planned while the tables were
-- empty, and then walks over all rows of a queue. `offset 0` keeps a value that was computed once from being
-- computed again at each use.

-- Return the limit that a text describes, like `Limit` in model/limits.py: the number of jobs that may run at
-- once, the µs between two starts, and how many µs a start may be early. Null: any number.
create function redisjobs_f._limit_of(words text) returns table (most bigint, every_us bigint, ahead_us bigint)
language sql immutable as $$
  select l.most, l.every_us, case when l.every_us is null then null when l.burst is null then 100000
    else (greatest(1, least(l.burst, 1000000, 3200000000000000 / l.every_us)) - 1) * l.every_us end
  from (
    select case when r.most <> '' then least(r.most::numeric, 1e15) end::bigint as most,
      case when r.burst <> '' then least(r.burst::numeric, 1e15) end::bigint as burst,
      case when r.rate[1]::numeric > 0 then greatest(1, least(32000000000000, ceil(
        case r.rate[2] when 's' then 1e6 when 'm' then 6e7
          else 3.6e9 end / r.rate[1]::numeric)))::bigint end as every_us
    from (select regexp_match(words, 'rate=([0-9]+\.?[0-9]*)/([smh])') as rate,
      substring(words from 'max_concurrency=([0-9]+)') as most,
      substring(words from 'burst=([0-9]+)') as burst offset 0) r offset 0
  ) l
$$;

-- Return how many jobs of a bucket may start now. If the rate allows none, return when one may start. Also return
-- when the next job starts at a steady rate, corrected if that time is impossibly late.
create function redisjobs_f._room(running bigint, next_us bigint, most bigint, every_us bigint, ahead_us bigint,
  now_ms bigint)
  returns table (free bigint, from_ms bigint, steady_us bigint)
  language sql immutable as $$
  select case when r.from_us > now_ms * 1000 then 0
    else least(r.free, (now_ms * 1000 - r.from_us) / every_us + 1) end,
    case when r.from_us > now_ms * 1000 then (r.from_us + 999) / 1000 end, r.steady_us
  from (
    select s.free, s.steady_us, case when s.free > 0
      then greatest(now_ms * 1000, s.steady_us) - ahead_us end as from_us
    from (
      select greatest(0, coalesce(most - running, 1000000000000)) as free,
        case when every_us is null then next_us
        else least(next_us, now_ms * 1000 + ahead_us + every_us) end as steady_us offset 0
    ) s offset 0
  ) r
$$;

-- Return a bucket with its present values. A new bucket has no number.
create function redisjobs_f._bucket(q text, of_name text, of_key text)
  returns redisjobs.buckets language plpgsql as $$
declare
  found_one redisjobs.buckets;
begin
  select * into found_one from redisjobs.buckets b where b.queue = q and b.name = of_name and b.key = of_key
    order by b.number desc limit 1;
  if not found then
    found_one := row(q, of_name, of_key, null, 0, 0, false, null, redisjobs_f._empty_line());
  end if;
  return found_one;
end $$;

create function redisjobs_f._empty_line() returns bigint[] language sql immutable as $$
  select array_fill(9223372036854775807, array[3])
$$;

-- Replace buckets by their changed rows.
create function redisjobs_f._put_buckets(changed redisjobs.buckets[], now_ms bigint)
  returns void language plpgsql as $$
begin
  if changed is null then
    return;
  end if;
  delete from redisjobs.buckets b where b.ctid = any(array(
    select old.ctid from unnest(changed) c cross join lateral (select each.ctid from redisjobs.buckets each
      where each.queue = c.queue and each.name = c.name and each.key = c.key
        and each.number = c.number limit 1) old));
  insert into redisjobs.buckets
  select c.queue, c.name, c.key, coalesce(c.number + 1, now_ms), c.running, c.next_us, c.is_open,
    c.turn_ms, c.line_from
  from unnest(changed) c on conflict do nothing;
end $$;

-- Let up to `most` of these jobs start, in this order, and give them shares. A job that may not start, and comes
-- before the last one that starts, waits in line. The jobs have one priority, and are locked. `full_ones` are
-- buckets that start no more jobs in this claim. No step joins buckets with jobs: without an index, that takes
-- time proportional to their product.
create function redisjobs_f._start(q text, seqs bigint[], most integer, now_ms bigint, inout full_ones text[],
  out starting bigint[], out lined bigint[]) language plpgsql as $$
declare
  changed redisjobs.buckets[];
  blocked text[];
begin
  with asked as materialized (
    select s.at, j.seq, j.id, j.name, coalesce(j.limit_key, '') as key, j.rank, j.place, r.value,
      coalesce(j.extra ? 'suspended_at' and strpos(r.value, 'rate=') > 0, false) as goes_on
    from unnest(seqs) with ordinality as s(seq, at)
    cross join lateral (select * from redisjobs.jobs each where each.seq = s.seq limit 1) j
    left join redisjobs.rules r on r.queue = q and r.kind = 'limit' and r.name = j.name and r.value <> ''
  ), by_bucket as materialized (
    select a.name, a.key, a.value, min(a.rank) as rank, array_agg(a.at order by a.at) as ats,
      array_agg(a.seq order by a.at) as seqs, array_agg(a.id order by a.at) as ids,
      array_agg(a.goes_on order by a.at) as go_on,
      array_position(array_agg(a.place = 'ready' order by a.at) filter (where not a.goes_on), true) - 1 as returned
    from asked a where a.value is not null group by a.name, a.key, a.value
  ), limits as materialized (
    select n.name, l.* from (select distinct a.name, a.value from asked a where a.value is not null) n
    cross join lateral redisjobs_f._limit_of(n.value) l
  ), known as materialized (
    select b.*, c.number, coalesce(c.running, 0) as running, coalesce(c.is_open, false) as is_open, c.turn_ms,
      coalesce(c.line_from, redisjobs_f._empty_line()) as line_from, l.most, l.every_us, l.ahead_us,
      room.steady_us, f.is_full,
      greatest(0, coalesce(l.most - coalesce(c.running, 0), 1000000000000)) as shares,
      case when f.is_full then 0 when c.is_open then least(room.free, b.returned) else room.free end as free
    from by_bucket b join limits l on l.name = b.name
    left join lateral (
      select * from redisjobs.buckets each where each.queue = q and each.name = b.name and each.key = b.key
      order by each.number desc limit 1
    ) c on true
    cross join lateral redisjobs_f._room(coalesce(c.running, 0), coalesce(c.next_us, 0), l.most, l.every_us,
      l.ahead_us, now_ms) room
    cross join lateral (select b.name || ' ' || b.key = any(full_ones) as is_full) f
  ), able as materialized (  -- a job that continues after a wait needs a share, but spends none of the rate
    select k.*, array(
      select t.at from (
        select s.*, count(*) filter (where not s.goes_on) over (order by s.at) as nth
        from unnest(k.ats, k.go_on) s(at, goes_on)
      ) t where t.goes_on or t.nth <= k.free order by t.at limit k.shares) as may_start
    from known k
  ), cut as materialized (  -- jobs after the last one that starts are not looked at
    select coalesce((
      select may.at from (
        select unnest(k.may_start) as at from able k union all select a.at from asked a where a.value is null
      ) may order by may.at offset most - 1 limit 1), 1000000) as at
  ), each_one as materialized (
    select k.name, k.key, s.seq, s.id, not s.goes_on as spends, s.at = any(k.may_start) as starts
    from cut cross join able k cross join lateral unnest(k.ats, k.seqs, k.ids, k.go_on) s(at, seq, id, goes_on)
    where s.at <= cut.at
  ), judged as materialized (
    select k.*, e.starts, e.spent, e.first_in_line from (
      select e.name, e.key, count(*) filter (where e.starts)::integer as starts,
        count(*) filter (where e.starts and e.spends)::integer as spent,
        min(e.seq) filter (where not e.starts) as first_in_line
      from each_one e group by e.name, e.key
    ) e join known k on k.name = e.name and k.key = e.key
  ), shared as (
    insert into redisjobs.shares (queue, seq, name, key, id, spent)
    select q, e.seq, e.name, e.key, e.id, e.spends from each_one e where e.starts
  ), outcome as materialized (
    select row(q, j.name, j.key, j.number, j.running + j.starts, n.next_us, j.is_open
      or j.first_in_line is not null,
      -- A line whose limit is used up gets a turn when the rate allows it, or when a running job ends.
      case when j.first_in_line is null or j.is_full then t.turn_ms
        when after.free > 0 then least(t.turn_ms, now_ms) else least(t.turn_ms, after.from_ms) end,
      j.line_from[:j.rank] || least(j.line_from[j.rank + 1], j.first_in_line)
      || j.line_from[j.rank + 2:])::redisjobs.buckets as bucket,
      case when j.first_in_line is not null then j.name || ' ' || j.key end as blocked
    from judged j
    cross join lateral (select case when j.every_us is null or j.spent = 0 then j.steady_us
      else greatest(now_ms * 1000, j.steady_us) + j.spent * j.every_us end as next_us) n
    cross join lateral redisjobs_f._room(j.running + j.starts, n.next_us, j.most, j.every_us,
      j.ahead_us, now_ms) after
    cross join lateral (select case when j.starts > 0 and j.is_open and after.free = 0 then after.from_ms
      -- Some jobs have not spent the turn that they may have had.
      when j.starts > j.spent and j.is_open then least(j.turn_ms, now_ms)
      else j.turn_ms end as turn_ms) t
  )
  select (select array_agg(o.bucket) from outcome o), (select array_agg(o.blocked) from outcome o
    where o.blocked is not null),
    array(select e.seq from each_one e where e.starts
      union all select a.seq from asked a cross join cut where a.value is null and a.at <= cut.at),
    array(select e.seq from each_one e where not e.starts)
  into changed, blocked, starting, lined;
  if lined <> '{}' then
    update redisjobs.jobs j set place = 'line' from unnest(lined) s(seq) where j.seq = s.seq and j.place <> 'line';
  end if;
  perform redisjobs_f._put_buckets(changed, now_ms);
  full_ones := full_ones || blocked;
end $$;

-- Free the shares of jobs that no longer run. With `refund`, their starts don't count for the rate.
create function redisjobs_f._give_up(q text, seqs bigint[], refund boolean, now_ms bigint)
  returns void language plpgsql as $$
declare
  changed redisjobs.buckets[];
begin
  if cardinality(seqs) = 0 or not exists (select from redisjobs.rules r
    where r.queue = q and r.kind = 'limit') then
    return;
  end if;
  with gone as (
    delete from redisjobs.shares s where s.queue = q and s.seq = any(seqs) returning s.name, s.key, s.spent
  ), freed as materialized (
    select g.name, g.key, count(*) as number, count(*) filter (where g.spent) as spent from gone g
    group by g.name, g.key
  )
  select array_agg(row(q, b.name, b.key, b.number, b.running - f.number,
    b.next_us - case when refund then coalesce(f.spent * l.every_us, 0) else 0 end, b.is_open,
    case when b.is_open then least(b.turn_ms, now_ms) else b.turn_ms end, b.line_from)::redisjobs.buckets)
    into changed
  from freed f cross join lateral (
    select * from redisjobs.buckets each where each.queue = q and each.name = f.name and each.key = f.key
    order by each.number desc limit 1
  ) b
  join redisjobs.rules r on r.queue = q and r.kind = 'limit' and r.name = f.name
  cross join lateral redisjobs_f._limit_of(r.value) l;
  perform redisjobs_f._put_buckets(changed, now_ms);
end $$;

-- Return whether a running job has a share of a limit on how many jobs run at once.
create function redisjobs_f._is_counted(job redisjobs.jobs) returns boolean language plpgsql as $$
begin
  return exists (select from redisjobs.shares s where s.queue = job.queue and s.seq = job.seq)
    and exists (select from redisjobs.rules r cross join lateral redisjobs_f._limit_of(r.value) l
      where r.queue = job.queue and r.kind = 'limit' and r.name = job.name and l.most is not null);
end $$;

-- Give the next job in line a turn, because this job had its turn and does not start.
create function redisjobs_f._pass_turn(job redisjobs.jobs, now_ms bigint) returns void language plpgsql as $$
begin
  if exists (select from redisjobs.rules r where r.queue = job.queue and r.kind = 'limit' and r.name = job.name
    and r.value <> '') then
    perform redisjobs_f._give_turn(job.queue, job.name, coalesce(job.limit_key, ''), now_ms);
  end if;
end $$;

-- Give a line a turn now.
create function redisjobs_f._give_turn(q text, of_name text, of_key text, now_ms bigint)
  returns void language plpgsql as $$
declare
  line redisjobs.buckets := redisjobs_f._bucket(q, of_name, of_key);
begin
  if line.is_open and coalesce(line.turn_ms > now_ms, true) then
    line.turn_ms := now_ms;
    perform redisjobs_f._put_buckets(array[line], now_ms);
  end if;
end $$;

-- Give a turn to a line that has none although jobs wait in it, and look for its jobs from the beginning.
create function redisjobs_f._open_line(q text, of_name text, of_key text, now_ms bigint)
  returns void language plpgsql as $$
declare
  line redisjobs.buckets := redisjobs_f._bucket(q, of_name, of_key);
begin
  insert into redisjobs.rules (queue, kind, name, since_ms, value) values (q, 'limit', of_name, now_ms, '')
  on conflict do nothing;
  line.is_open := true;
  line.turn_ms := least(line.turn_ms, now_ms);
  line.line_from := array[0, 0, 0];
  perform redisjobs_f._put_buckets(array[line], now_ms);
end $$;

-- Return up to `most` jobs of a line in order.
create function redisjobs_f._line(b redisjobs.buckets, most bigint) returns table (seq bigint, rank smallint)
language plpgsql stable as $$
#variable_conflict use_column
begin
  return query
  select found_job.seq, found_job.rank from generate_series(0, 2) wanted(rank) cross join lateral (
    select j.seq, j.rank from redisjobs.jobs j
    where j.queue = b.queue and j.place = 'line' and j.name = b.name and coalesce(j.limit_key, '') = b.key
      and j.rank = wanted.rank and j.seq >= b.line_from[wanted.rank + 1]
    order by j.seq limit most
  ) found_job order by found_job.rank, found_job.seq limit most;
end $$;

-- Lock up to `most` jobs of a line in order, and return them. Also return jobs before them that other calls have
-- locked; those are not `is_mine`.
create function redisjobs_f._lock_line(b redisjobs.buckets, most bigint)
  returns table (seq bigint, rank smallint, is_mine boolean)
  language plpgsql as $$
#variable_conflict use_column
declare
  from_seq bigint;
  seqs bigint[];
  mine boolean[];
begin
  for wanted in 0..2 loop
    from_seq := b.line_from[wanted + 1];
    while most > 0 and from_seq is not null loop
      select array_agg(j.seq order by j.seq), array_agg(j.is_mine order by j.seq) into seqs, mine from (
        select first.seq, coalesce((
          select true from redisjobs.jobs each where each.seq = first.seq
            and each.place is not distinct from 'line'
          for no key update skip locked), false) as is_mine
        from (
          select each.seq from redisjobs.jobs each where each.queue = b.queue and each.place = 'line'
            and each.name = b.name
            and coalesce(each.limit_key, '') = b.key and each.rank = wanted and each.seq >= from_seq
          order by each.seq limit most
        ) first offset 0
      ) j;
      return query select s.seq, wanted::smallint, s.is_mine from unnest(seqs, mine) s(seq, is_mine);
      from_seq := case when cardinality(seqs) = most then seqs[cardinality(seqs)] + 1 end;
      most := most - coalesce(cardinality(array_positions(mine, true)), 0);
    end loop;
  end loop;
end $$;

-- Return the jobs that may leave their lines now: up to 500 jobs of up to 50 lines. The claim takes them from
-- there. It hands back jobs that it has no room for (`_leave_lines`). No line has a turn before `due_from`.
create function redisjobs_f._take_turns(q text, due_from bigint, paused_names text[], now_ms bigint,
  out turned bigint[], out ranks smallint[]) language plpgsql as $$
declare
  changed redisjobs.buckets[];
begin
  if coalesce((select b.turn_ms from redisjobs.buckets b where b.queue = q and b.turn_ms >= due_from
    order by b.turn_ms limit 1)
    > now_ms, true) then
    turned := '{}';
    ranks := '{}';
    return;
  end if;
  with due as materialized (
    select row_number() over (order by b.turn_ms, b.name, b.key) as at, b.name, b.key,
      row(b.*)::redisjobs.buckets as bucket, r.value <> '' as has_limit,
      room.from_ms, room.steady_us, case when b.name = any(paused_names) then 0
        else least(room.free, 500) end as free
    from (select * from redisjobs.buckets b where b.queue = q and b.turn_ms >= due_from and b.turn_ms <= now_ms
      order by b.turn_ms limit 50) b
    left join redisjobs.rules r on r.queue = q and r.kind = 'limit' and r.name = b.name
    left join lateral redisjobs_f._limit_of(r.value) l on true
    cross join lateral redisjobs_f._room(b.running, b.next_us, l.most, l.every_us, l.ahead_us, now_ms) room
  ), taken as materialized (
    select d.at, j.seq, j.rank, j.is_mine from due d cross join lateral redisjobs_f._lock_line(d.bucket, d.free) j
    where d.free > 0
    order by d.at, j.rank, j.seq limit 500
  ), found_jobs as materialized (
    select d.at, d.free, count(t.seq) as number, coalesce(bool_or(not t.is_mine), false) as is_locked,
      -- By rank, the place where the line continues: the first job that another call has locked.
      array[coalesce(min(t.seq) filter (where t.rank = 0 and not t.is_mine),
        max(t.seq) filter (where t.rank = 0) + 1),
        coalesce(min(t.seq) filter (where t.rank = 1 and not t.is_mine), max(t.seq) filter (where t.rank = 1) + 1),
        coalesce(min(t.seq) filter (where t.rank = 2 and not t.is_mine),
          max(t.seq) filter (where t.rank = 2) + 1)] as following
    from due d left join taken t on t.at = d.at group by d.at, d.free
  ), counted as materialized (
    select f.*, least(f.free, 500 - coalesce(sum(f.number)
      over (order by f.at rows between unbounded preceding and 1 preceding), 0))
      as wanted from found_jobs f
  )
  select array_agg(row(q, d.name, d.key, (d.bucket).number, (d.bucket).running, d.steady_us,
      (d.bucket).is_open and (d.free = 0 or c.number >= c.wanted or c.is_locked),
      case when d.free = 0 then case when not d.name = any(paused_names) then d.from_ms end
        when c.number >= c.wanted and not d.has_limit then now_ms
        when c.is_locked then now_ms + 1000
        when c.number >= c.wanted then now_ms + 5000 end,  -- some jobs may not start
      case when d.free = 0 or c.number >= c.wanted or c.is_locked then array[
        coalesce(c.following[1], (d.bucket).line_from[1]), coalesce(c.following[2], (d.bucket).line_from[2]),
        coalesce(c.following[3], (d.bucket).line_from[3])] else redisjobs_f._empty_line() end)::redisjobs.buckets),
    (select array_agg(t.seq order by t.rank, t.seq) from taken t where t.is_mine),
    (select array_agg(t.rank order by t.rank, t.seq) from taken t where t.is_mine)
  into changed, turned, ranks from due d join counted c on c.at = d.at where d.free = 0 or c.wanted > 0;
  perform redisjobs_f._put_buckets(changed, now_ms);
  turned := coalesce(turned, '{}');
  ranks := coalesce(ranks, '{}');
end $$;

-- Hand back the jobs that have their turn and that the claim has no room for. Skip jobs that the claim put in line
-- again.
create function redisjobs_f._leave_lines(turned bigint[], lined bigint[], now_ms bigint)
  returns void language plpgsql as $$
begin
  if turned <> '{}' then
    update redisjobs.jobs j set place = 'returned', at_ms = now_ms
    from unnest(turned) s(seq) where j.seq = s.seq and not s.seq = any(lined)
      and j.place is not distinct from 'line';  -- not `=`, whose plan might walk over all lines
  end if;
end $$;

-- Notify all workers of the next turn's time. The worker that should look then may be gone.
create function redisjobs_f._tell_turn(q text) returns void language plpgsql as $$
begin
  perform redisjobs_f._tell('due', b.turn_ms::text) from (
    select turn_ms from redisjobs.buckets where queue = q and turn_ms is not null order by turn_ms limit 1) b;
end $$;

-- Give a turn now to each waiting line of a job name, up to 500 lines after a key. Return the last key; null at
-- the end.
create function redisjobs_f._give_turns(q text, of_name text, now_ms bigint, after_key text default null)
  returns text language plpgsql as $$
declare
  lines redisjobs.buckets[];
begin
  select array_agg(row(b.*)::redisjobs.buckets order by b.key) into lines from (
    select * from redisjobs.buckets each where each.queue = q and each.name = of_name and each.is_open
      and (after_key is null or each.key > after_key)
    order by each.key limit 500) b;
  if lines is null then
    return null;
  end if;
  perform redisjobs_f._put_buckets((select array_agg(
    row(b.queue, b.name, b.key, b.number, b.running, b.next_us, true, now_ms, b.line_from)::redisjobs.buckets)
    from unnest(lines) b where coalesce(b.turn_ms > now_ms, true)), now_ms);
  perform redisjobs_f._tell('due', now_ms::text);
  return case when cardinality(lines) = 500 then lines[500].key end;
end $$;

-- Give a turn to lines that could continue, in case the clock was set or a count is wrong. A step covers 500 lines
-- after `after_line`; '' begins. Return the last line; '' at the end. Only if something is wrong does it look
-- again while no exchange runs.
create function redisjobs_f._tidy_lines(q text, after_line text, now_ms bigint) returns text language plpgsql as $$
declare
  looked record;
begin
  select * into looked from redisjobs_f._look_at_lines(q, after_line, now_ms);
  if looked.corrected is not null and redisjobs_f._try_lock(q) then
    select * into looked from redisjobs_f._look_at_lines(q, after_line, now_ms);
    perform redisjobs_f._put_buckets(looked.corrected, now_ms);
  end if;
  if looked.last is null then
    perform redisjobs_f._forget_limits(q);
    perform redisjobs_f._tell_turn(q);
  end if;
  return coalesce(looked.last, '');
end $$;

-- Check 500 lines after one. Return the wrong buckets with their right values, or null if there are none. Also
-- return the last of these lines, or null if there are no more. The function is stable, so it sees buckets and
-- shares at one instant.
create function redisjobs_f._look_at_lines(q text, after_line text, now_ms bigint,
  out corrected redisjobs.buckets[], out last text) language plpgsql stable as $$
begin
  select array_agg(row(q, b.name, b.key, b.number, s.running, room.steady_us, true, turn.at_ms,
    b.line_from)::redisjobs.buckets)
      filter (where p.name is null and (b.running, b.next_us, b.turn_ms)
        is distinct from (s.running, room.steady_us, turn.at_ms)),
    case when count(*) = 500 then (array_agg(jsonb_build_array(b.name, b.key)
      order by b.name, b.key))[500]::text end
  into corrected, last
  from redisjobs_f._open_lines(q, coalesce(nullif(after_line, '')::jsonb ->> 0, ''),
    coalesce(nullif(after_line, '')::jsonb ->> 1, '')) b
  left join redisjobs.rules p on p.queue = q and p.kind = 'name' and p.name = b.name
  left join redisjobs.rules r on r.queue = q and r.kind = 'limit' and r.name = b.name
  left join lateral redisjobs_f._limit_of(r.value) l on true
  cross join lateral (
    select count(*) as running from redisjobs.shares each
    where each.queue = q and each.name = b.name and each.key = b.key
  ) s
  cross join lateral redisjobs_f._room(s.running, b.next_us, l.most, l.every_us, l.ahead_us, now_ms) room
  cross join lateral (select least(b.turn_ms, case when room.free > 0 then now_ms
    else room.from_ms end) as at_ms) turn;
end $$;

-- Return up to 500 open lines after one. Each is found by one step in the index, because the index may have many
-- dead rows of a line.
create function redisjobs_f._open_lines(q text, after_name text, after_key text) returns setof redisjobs.buckets
language plpgsql stable as $$
begin
  return query
  with recursive line as (
    (select b.* from redisjobs.buckets b where b.queue = q and b.is_open
      and (b.name, b.key) > (after_name, after_key)
      order by b.name, b.key, b.number desc limit 1)
    union all
    select following.* from line cross join lateral (
      select b.* from redisjobs.buckets b where b.queue = q and b.is_open
        and (b.name, b.key) > (line.name, line.key)
        order by b.name, b.key, b.number desc limit 1) following
  )
  select * from line limit 500;
end $$;

-- Drop up to 1,000 buckets without jobs, and return whether there may be more. No call that changes buckets runs
-- beside this, but exchanges without limits do. Skip this while a snapshot is held, because it would walk over all
-- dead rows.
create function redisjobs_f._drop_buckets(q text, now_ms bigint) returns boolean language plpgsql as $$
declare
  number integer;
begin
  if redisjobs_f._is_pinned() then
    return false;
  end if;
  perform redisjobs_f._share(q);
  delete from redisjobs.buckets b where b.ctid = any(array(
    select each.ctid from redisjobs.buckets each
    where each.queue = q and not each.is_open and each.running = 0 and each.next_us <= now_ms * 1000
    order by each.next_us limit 1000 for update skip locked));
  get diagnostics number = row_count;
  return number = 1000;
end $$;

-- Forget removed limits that have no line and no share left.
create function redisjobs_f._forget_limits(q text) returns void language plpgsql as $$
begin
  if not exists (select from redisjobs.rules r where r.queue = q and r.kind = 'limit' and r.value = '')
    or not redisjobs_f._try_lock(q) then
    return;
  end if;
  delete from redisjobs.rules r where r.queue = q and r.kind = 'limit' and r.value = ''
    and (select true from redisjobs.buckets b where b.queue = q and b.name = r.name and b.is_open
      order by b.key, b.number desc limit 1) is null
    and (select true from redisjobs.shares s where s.queue = q and s.name = r.name
      order by s.key, s.seq limit 1) is null;
end $$;

-- Set the limit of a job name, or remove it with '', and give its lines a turn. This is one step. Return a space
-- and the key after which the next step begins; '' at the end.
create function redisjobs_f.set_limit(q text, given_ms bigint, of_name text, words text, after_key text)
  returns text language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  before text;
begin
  perform redisjobs_f._lock(q);
  if after_key is null then
    before := (select r.value from redisjobs.rules r where r.queue = q and r.kind = 'limit' and r.name = of_name);
    if coalesce(before, '') = words then
      return redisjobs_f._answer('""');
    end if;
    insert into redisjobs.rules (queue, kind, name, since_ms, value) values (q, 'limit', of_name, now_ms, words)
      on conflict (queue, kind, name) do update set value = excluded.value, since_ms = excluded.since_ms;
    if coalesce(before, '') = '' then
      perform redisjobs_f._count_running(q, of_name, now_ms);
    end if;
  end if;
  after_key := redisjobs_f._give_turns(q, of_name, now_ms, after_key);
  perform redisjobs_f._forget_limits(q);
  return redisjobs_f._answer(to_jsonb(coalesce(' ' || after_key, '')));
end $$;

-- Give shares to jobs that started before their limit was set.
create function redisjobs_f._count_running(q text, of_name text, now_ms bigint) returns void language plpgsql as $$
begin
  insert into redisjobs.shares (queue, seq, name, key, id)
    select q, j.seq, j.name, coalesce(j.limit_key, ''), j.id from redisjobs.jobs j
    where j.queue = q and j.place = 'running' and j.name = of_name on conflict do nothing;
  perform redisjobs_f._put_buckets((
    select array_agg(row(q, b.name, b.key, b.number, s.running, b.next_us, b.is_open, b.turn_ms,
      b.line_from)::redisjobs.buckets)
    from (select each.key, count(*) as running from redisjobs.shares each
      where each.queue = q and each.name = of_name
      group by each.key) s
    cross join lateral redisjobs_f._bucket(q, of_name, s.key) b), now_ms);
end $$;

-- List limits, the lines of buckets and the running jobs. A step returns up to 500 lines after a name and key
-- (null: none), or running jobs after a place. The answer is {limits, lines, running, line: the last line, job:
-- the last job's place; null: the end}.
create function redisjobs_f.find_limits(q text, given_ms bigint, after_name text, after_key text, after_seq bigint)
  returns text language plpgsql stable as $$
declare
  limits jsonb;
  lines jsonb := '[]';
  running jsonb := '[]';
  line jsonb;
  job bigint;
begin
  if after_name = '' and after_seq is null then
    select jsonb_object_agg(r.name, r.value) into limits from redisjobs.rules r
    where r.queue = q and r.kind = 'limit' and r.value <> '';
  end if;
  if after_seq is null then
    select jsonb_agg(jsonb_build_array(concat_ws(' ', b.name, nullif(b.key, '')), b.waiting, b.turn_ms)
      order by b.name, b.key)
        filter (where b.waiting > 0),
      case when count(*) = 500 then (array_agg(jsonb_build_array(b.name, b.key) order by b.name, b.key))[500] end
    into lines, line from (
      select each.name, each.key, each.turn_ms, (select count(*) from redisjobs_f._line(each, null)) as waiting
      from redisjobs.buckets each where each.queue = q and each.is_open
        and (each.name, each.key) > (after_name, after_key)
      order by each.name, each.key limit 500) b;
  end if;
  if line is null then
    select jsonb_agg(jsonb_build_array(concat_ws(' ', s.name, nullif(s.key, '')), j.worker, s.id)),
      case when count(*) = 500 then max(s.seq) end into running, job
    from (select * from redisjobs.shares each where each.queue = q and each.seq > coalesce(after_seq, 0)
      order by each.seq limit 500) s
    cross join lateral (select * from redisjobs.jobs each where each.seq = s.seq limit 1) j;
  end if;
  return redisjobs_f._answer(jsonb_build_object('limits', coalesce(limits, '{}'), 'lines', coalesce(lines, '[]'),
    'running', coalesce(running, '[]'), 'line', line, 'job', job));
end $$;
