-- Chunks: the output that jobs emit while they run, and the calls of its readers.

-- Store chunks of a running job, a list with kind and data (base64) of each. If there are too many, drop the
-- oldest ones. The first chunks of a run come with `wait`: the number of the last wait that was over when the run
-- began. See redisjobs/model/emissions.py.
create function redisjobs_f._emit(job redisjobs.jobs, wait integer, chunks jsonb, now_ms bigint) returns void
language plpgsql as $$
declare
  most constant integer := 10000;
  most_bytes constant integer := 4194304;
  s redisjobs.streams;
  kept bigint;
begin
  -- The lock of the job is enough.
  select * into s from redisjobs.streams t where t.queue = job.queue and t.id = job.id;
  if s.until_ms <= now_ms then
    perform redisjobs_f._forget_chunks(job.queue, job.id);
  end if;
  if s.until_ms is null or s.until_ms <= now_ms then
    insert into redisjobs.streams (queue, id, began_ms, until_ms)
    values (job.queue, job.id, now_ms, now_ms) returning * into s;
  end if;
  if wait is not null then
    s.run := s.run + (s.run = 0 or wait <= s.wait)::integer;
    s.wait := wait;
  end if;
  with added as (
    insert into redisjobs.chunks (queue, id, number, run, before, kind, data)
    select job.queue, job.id, s.last + n, s.run, s.bytes + sum(octet_length(a.data))
      over (order by n) - octet_length(a.data),
      a.kind, a.data
    from (select n, value->>0 as kind, decode(value->>1, 'base64') as data
      from jsonb_array_elements(chunks) with ordinality each(value, n)) a
    returning octet_length(data) as size
  )
  select s.last + count(*), s.bytes + coalesce(sum(size), 0) into s.last, s.bytes from added;
  kept := greatest(s.first, s.last - most + 1, (
    select c.number from redisjobs.chunks c where c.queue = job.queue and c.id = job.id and c.number >= s.first
      and c.before >= s.bytes - most_bytes order by c.number limit 1));
  if kept > s.first then
    delete from redisjobs.chunks c where c.queue = job.queue and c.id = job.id and c.number < kept;
  end if;
  update redisjobs.streams t set (first, last, bytes, run, wait, until_ms) =
    (kept, s.last, s.bytes, s.run, s.wait, now_ms + 86400000) where t.queue = job.queue and t.id = job.id;
  perform redisjobs_f._tell_waiters(job);
end $$;

-- Return chunks of a job after a number, up to `most_bytes`. The answer has `chunks` (a list with number, run,
-- kind and data in base64 of each), `began` and `more`. If older chunks are gone, it has `lost`, the number of
-- dropped chunks, and `first`, the number of the oldest chunk that is kept. A number of an earlier job, which
-- began at another time, counts as 0.
create function redisjobs_f.chunks(q text, given_ms bigint, of_id text, began bigint, after bigint,
  most_bytes bigint) returns text language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  s redisjobs.streams;
  seen bigint;
  page jsonb;
  newest bigint;
begin
  select * into s from redisjobs.streams t where t.queue = q and t.id = of_id and t.until_ms > now_ms;
  if not found then
    return redisjobs_f._answer('{"chunks": [], "more": false}');
  end if;
  seen := case when began = s.began_ms then after else 0 end;
  if seen < s.first - 1 then
    return redisjobs_f._answer(jsonb_build_object('began', s.began_ms, 'lost',
      s.first - 1 - seen, 'first', s.first));
  end if;
  select jsonb_agg(jsonb_build_array(p.number, p.run, p.kind, translate(encode(p.data, 'base64'), E'\n', ''))
    order by p.number),
    max(p.number) into page, newest
  from (
    select c.number, c.run, c.kind, c.data, c.before + octet_length(c.data) - min(c.before) over () as size,
      row_number() over (order by c.number) as n
    from redisjobs.chunks c where c.queue = q and c.id = of_id and c.number > seen order by c.number limit 1000
  ) p where p.n = 1 or p.size <= most_bytes;
  return redisjobs_f._answer(jsonb_build_object('began', s.began_ms, 'chunks', coalesce(page, '[]'),
    'more', coalesce(newest < s.last, false)));
end $$;

-- Keep a job's progress for another minute after its end. Keep its chunks for a minute too, or as long as its
-- result, if that is longer.
create function redisjobs_f._keep_reported(job redisjobs.jobs, keep_ms bigint, now_ms bigint)
  returns void language plpgsql as $$
begin
  perform redisjobs_f._end_progress(job, now_ms);
  update redisjobs.streams t set until_ms = now_ms + greatest(60000, keep_ms)
    where t.queue = job.queue and t.id = job.id and t.until_ms > now_ms;
end $$;

create function redisjobs_f._forget_chunks(q text, of_id text) returns void language plpgsql as $$
begin
  delete from redisjobs.streams t where t.queue = q and t.id = of_id;
  if found then
    delete from redisjobs.chunks c where c.queue = q and c.id = of_id;
  end if;
end $$;

-- Delete chunks of up to 10 jobs whose time is over. Return whether there may be more.
create function redisjobs_f._clear_chunks(q text, now_ms bigint) returns boolean language plpgsql as $$
declare
  over text[];
begin
  over := array(select t.id from redisjobs.streams t where t.queue = q and t.until_ms <= now_ms limit 10
    for update skip locked);
  perform redisjobs_f._forget_chunks(q, each.id) from unnest(over) each (id);
  return cardinality(over) = 10;
end $$;
