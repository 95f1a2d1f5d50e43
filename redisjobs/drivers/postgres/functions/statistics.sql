-- Statistics by minute and by ten minutes: counts of workers, and samples of the queue; see
-- redisjobs/model/recording.py.
--
-- An interval's row is updated in place by one record after another. A fleet sends about ten records a second,
-- whatever its size, and each row receives records for ten minutes at most. So a snapshot that is held for long
-- keeps up to 6,000 versions of a row: measured, a record then takes 2 ms longer.

-- Add the counts of a worker, unless the record with this number was added before. `names` and `causes` are as in
-- `Record`, in the same order; `total` has the sums of all names. Return how long this minute still lasts, and the
-- number of workers.
create function redisjobs_f.record(q text, given_ms bigint, recorder text, number bigint, names json, total json,
  causes json) returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  minute bigint := now_ms / 60000;
begin
  perform redisjobs_f._sample(q, minute, now_ms);
  if (names::text, causes::text) <> ('{}', '{}') and redisjobs_f._is_new_record(q, recorder, number, now_ms) then
    perform redisjobs_f._add_record(q, lasts, minute / lasts, names, total, causes)
      from unnest(array[1, 10]) lasts;
  end if;
  -- as KEPT_MINUTES
  delete from redisjobs.intervals i where i.queue = q and i.minutes = 1 and i.number <= minute - 480;
  delete from redisjobs.intervals i where i.queue = q and i.minutes = 10 and i.number <= (minute - 4320) / 10;
  return redisjobs_f._answer(jsonb_build_array(60000 - now_ms % 60000,
    (select count(*) from redisjobs.workers w where w.queue = q)));
end $$;

-- Note for an hour that a record came. Return whether it is new, and no later record came before it.
create function redisjobs_f._is_new_record(q text, its_recorder text, its_number bigint, now_ms bigint)
  returns boolean language plpgsql as $$
begin
  insert into redisjobs.recorded as r values (q, its_recorder, its_number, now_ms + 3600000)
    on conflict (queue, recorder) do update set number = excluded.number, until_ms = excluded.until_ms
    where r.number < excluded.number or r.until_ms <= now_ms;
  return found;
end $$;

-- Note the state of the queue, once in each interval. One call at a time counts the jobs; other calls don't wait
-- for it.
create function redisjobs_f._sample(q text, minute bigint, now_ms bigint) returns void language plpgsql as $$
declare
  state jsonb;
begin
  if exists (select from redisjobs.intervals i where i.queue = q and i.minutes = 1
    and i.number = minute and i.sample <> '{}')
    and exists (select from redisjobs.intervals i
      where i.queue = q and i.minutes = 10 and i.number = minute / 10 and i.sample <> '{}')
    or not pg_try_advisory_xact_lock(hashtextextended('redisjobs sample ' || q, 0)) then
    return;
  end if;
  state := redisjobs_f._state(q, now_ms);
  insert into redisjobs.intervals as i (queue, minutes, number, sample)
    select q, lasts, minute / lasts, state from unnest(array[1, 10]) lasts
    on conflict (queue, minutes, number) do update set sample = excluded.sample where i.sample = '{}';
end $$;

-- Return the state of the queue as numbers by name.
create function redisjobs_f._state(q text, now_ms bigint) returns jsonb language plpgsql as $$
declare
  counts jsonb := redisjobs_f.count(q, now_ms)::jsonb -> 'a';
  backlog jsonb := redisjobs_f.backlog(q, now_ms)::jsonb -> 'a';
begin
  return jsonb_build_object(
    'ready', (select coalesce(sum(value::bigint), 0) from jsonb_each_text(counts -> 'ready')),
    'running', counts -> 'running', 'delayed', counts -> 'delayed',
    'suspended', coalesce(counts -> 'suspended', '0'), 'dead', counts -> 'dead',
    'oldest_ms', (select coalesce(greatest(now_ms - min((value ->> 1)::bigint), 0), 0)
      from jsonb_array_elements(backlog -> 'since')),
    'pushed', coalesce(counts -> 'totals' -> 'pushed', '0'),
    'workers', (select count(*) from redisjobs.workers w where w.queue = q));
end $$;

-- Add a record to an interval.
create function redisjobs_f._add_record(q text, lasts integer, its_number bigint, more_names json, more json,
  more_causes json) returns void language plpgsql as $$
begin
  insert into redisjobs.intervals (queue, minutes, number) values (q, lasts, its_number) on conflict do nothing;
  update redisjobs.intervals i set total = redisjobs_f._add_sums(i.total, more, null),
    names = redisjobs_f._add_names(i.names, more_names, 200),
    causes = redisjobs_f._add_sums(i.causes, more_causes, 50)
  where i.queue = q and i.minutes = lasts and i.number = its_number;
end $$;

-- Return the given values with the names they count under. Beyond `most` names, new names count as `other`.
create function redisjobs_f._placed(known jsonb, given json, most bigint) returns table (name text, value json)
language sql immutable as $$
  select case when known ? one.key or most is null
    or count(*) filter (where not known ? one.key) over (order by one.at) <= most
      - (select count(*) from jsonb_object_keys(known))
    then one.key else 'other' end, one.value
  from json_each(given) with ordinality as one (key, value, at)
$$;

-- Add the given values to known sums, and return the sums.
create function redisjobs_f._add_sums(known jsonb, given json, most bigint)
  returns jsonb language sql immutable as $$
  select known || coalesce(jsonb_object_agg(added.name, added.n + coalesce((known ->> added.name)::bigint, 0)),
    '{}')
  from (
    select p.name, sum(p.value::text::bigint) as n from redisjobs_f._placed(known, given, most) p group by p.name
  ) added
$$;

-- Add the given values to known sums by name, and return the sums. Only the given names are unpacked.
create function redisjobs_f._add_names(known jsonb, given json, most bigint)
  returns jsonb language sql immutable as $$
  with placed as materialized (
    select * from redisjobs_f._placed(known, given, most)
  ), parts as (
    select p.name, each.key, each.value::bigint as n from placed p, json_each_text(p.value) each
    union all
    select p.name, each.key, each.value::bigint from (select distinct placed.name from placed) p,
      jsonb_each_text(known -> p.name) each
  ), added as (
    select name, key, sum(n) as n from parts group by name, key
  ), names as (
    select name, jsonb_object_agg(key, n) as sums from added group by name
  )
  select known || coalesce(jsonb_object_agg(name, sums), '{}') from names
$$;

-- Find intervals of a length: the last `many`, with the current one. A step returns 120 intervals from the number
-- `after` on, or about 1 MB. They cover one name or, if `is_whole`, all names and causes. Rows: [number, total,
-- sample, names, causes]. The answer is {after: where the next step begins, now}.
create function redisjobs_f.find_intervals(q text, given_ms bigint, lasts integer, many bigint, of_name text,
  is_whole boolean, after bigint)
  returns table (meta text, sums text)
  language plpgsql stable as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  last bigint := now_ms / 60000 / lasts;
  first bigint := greatest(after, last - many + 1);
  stop bigint := least(last + 1, first + 120);
  bytes bigint := 0;
  one redisjobs.intervals;
begin
  for one in
    select * from redisjobs.intervals i where i.queue = q and i.minutes = lasts
      and i.number >= first and i.number < stop
    order by i.number
  loop
    sums := jsonb_build_array(one.number, case when of_name = '' then one.total else '{}' end, one.sample,
      case when of_name <> '' then jsonb_strip_nulls(jsonb_build_object(of_name, one.names -> of_name))
        when is_whole then one.names else '{}' end,
      case when is_whole then one.causes else '{}' end)::text;
    return next;
    bytes := bytes + octet_length(sums);
    if bytes >= 1048576 then
      stop := one.number + 1;
      exit;
    end if;
  end loop;
  meta := redisjobs_f._answer(jsonb_build_object('now', now_ms,
    'after', case when stop <= last then stop::text else '' end));
  sums := null;
  return next;
end $$;
