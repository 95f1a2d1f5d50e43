-- The place of a job in line, and other reasons why it waits.

-- Count the jobs that are claimed before a ready job, up to 1,001: jobs of a higher priority, and older jobs. For
-- a job in a waiting line, count the jobs of that line.
create function redisjobs_f._ahead(job redisjobs.jobs) returns bigint language plpgsql stable as $$
begin
  if job.place = 'line' then
    return (select count(*) from (select from redisjobs.jobs other
      where other.queue = job.queue and other.place = 'line'
      and other.name = job.name and coalesce(other.limit_key, '') = coalesce(job.limit_key, '')
      and (other.rank, other.seq) < (job.rank, job.seq) limit 1001) counted);
  end if;
  return (select count(*) from (
    (select from redisjobs.jobs other where other.queue = job.queue and other.place = 'ready'
      and (other.rank, other.seq) < (job.rank, job.seq) limit 1001)
    union all
    (select from redisjobs.jobs other where other.queue = job.queue and other.place = 'returned'
      and (other.rank, other.seq) < (job.rank, job.seq) limit 1001)
    limit 1001) counted);
end $$;

-- Describe the bucket in whose line a job waits: its name, when the next job of the line may start, the limit, and
-- the number of running jobs under it, ten of them with their workers.
create function redisjobs_f._line_of(job redisjobs.jobs) returns jsonb language sql stable as $$
  select jsonb_build_object('bucket', concat_ws(' ', job.name, nullif(job.limit_key, '')),
    'turn', (select turn_ms from redisjobs.buckets b
      where b.queue = job.queue and b.name = job.name and b.key = coalesce(job.limit_key, '')),
    'limit', (select value from redisjobs.rules r where r.queue = job.queue and r.kind = 'limit'
      and r.name = job.name),
    'running', (select count(*) from redisjobs.shares s
      where s.queue = job.queue and s.name = job.name and s.key = coalesce(job.limit_key, '')),
    'holders', (select jsonb_agg(jsonb_build_array(few.worker, few.id) order by few.id) from (
      select runs.worker, s.id from redisjobs.shares s
      join redisjobs.jobs runs on runs.seq = s.seq and runs.place = 'running'
      where s.queue = job.queue and s.name = job.name and s.key = coalesce(job.limit_key, '')
      order by s.id limit 10) few))
$$;

-- Return where a job stands, or the holder of a unique key.
create function redisjobs_f.ahead(q text, given_ms bigint, of_id text, of_key text)
  returns text language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  key record;
  job redisjobs.jobs;
  answer jsonb := jsonb_build_object('now', now_ms, 'id', of_id, 'promoter',
    coalesce((select value from redisjobs.settings s
    where s.queue = q and s.name = 'promoter' and s.at_ms > now_ms), ''));
begin
  if of_id = '' then
    select u.id, u.until_ms - now_ms as ms into key from redisjobs.uniques u
    where u.queue = q and u.key = of_key and coalesce(u.until_ms > now_ms, not redisjobs_f._is_left(u));
    of_id := coalesce(key.id, '');
    answer := answer || jsonb_build_object('id', of_id, 'key_ms', key.ms);
  end if;
  select * into job from redisjobs.jobs j where j.queue = q and j.seq = redisjobs_f._seq_of(q, of_id);
  if job.place is null or job.place in ('completed', 'cancelled') then
    return redisjobs_f._answer(answer || jsonb_build_object('has_ended',
      job.place is null and redisjobs_f._remembered(q, 'ended', of_id || ' ', now_ms) is not null));
  end if;
  if job.place = 'dead' then
    return redisjobs_f._answer(answer || jsonb_build_object('alike', (select count(*) from redisjobs.jobs j
      where j.queue = q and j.place = 'dead' and j.kind = job.kind)));
  end if;
  answer := answer || jsonb_build_object('held', (select since_ms from redisjobs.rules r
    where r.queue = q and r.kind = 'held' and r.name = of_id));
  if job.place in ('delayed', 'suspended', 'running') then
    return redisjobs_f._answer(answer);
  end if;
  return redisjobs_f._answer(answer || jsonb_build_object('ahead', redisjobs_f._ahead(job))
    || case when job.place = 'line' then redisjobs_f._line_of(job) else '{}' end);
end $$;
