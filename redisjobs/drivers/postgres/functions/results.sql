-- A process asks how jobs have ended, and waits for jobs that have not.

-- Return the status of jobs in order, a list each: ending, place, keep_ms, progress, value, error, error_type,
-- traceback, reason. Once the answer has about 4 MB, the ending of the others is LATER.
create function redisjobs_f.status(q text, given_ms bigint, ids text[]) returns text language plpgsql stable as $$
begin
  return redisjobs_f._answer(redisjobs_f._status_of(q, ids, redisjobs_f._now(given_ms)));
end $$;

-- Note a process for the jobs that have not ended, and then return the status of all. This is not a part of
-- `status`, because a role that reads may not write.
create function redisjobs_f.await(q text, given_ms bigint, ids text[], process text)
  returns text language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
begin
  perform redisjobs_f._await(q, ids, process, now_ms);
  return redisjobs_f._answer(redisjobs_f._status_of(q, ids, now_ms));
end $$;

create function redisjobs_f._status_of(q text, ids text[], now_ms bigint)
  returns jsonb language plpgsql stable as $$
declare
  found jsonb;
begin
  select jsonb_agg(case when s.before < 4194304 then s.status
    else '["LATER", "", null, "", "", "", "", "", ""]' end
    order by s.n) into found
  from (
    select a.n, coalesce(sum(octet_length(concat(kept.value, progress.value, job.extra->>'traceback')))
        over (order by a.n rows between unbounded preceding and 1 preceding), 0) as before,
      case
        when job.place = 'dead' then redisjobs_f._as_dead(job.extra, progress.value)
        when job.seq is not null then jsonb_build_array('PENDING', case
          when job.place in ('delayed', 'suspended') then job.place
          else (array['high', 'normal', 'low'])[job.rank + 1] end, redisjobs_f._kept_ms(job),
          coalesce(progress.value, ''), '', '', '', '', '')
        when kept.value is not null and kept.value_until_ms > now_ms then jsonb_build_array('COMPLETED', '', null,
          coalesce(progress.value, ''), kept.value, '', '', '', '')
        else jsonb_build_array(coalesce(kept.ending, redisjobs_f._trace_of(q, a.id)), '', null,
          coalesce(progress.value, ''), '', coalesce(kept.error, ''), coalesce(kept.error_type, ''), '', '')
      end as status
    from unnest(ids) with ordinality a (id, n)
    -- `offset 0`: look up each job by its id, even if the planner assumes that the queue has few rows.
    left join lateral (select * from redisjobs.jobs j
      where j.queue = q and j.id = a.id and j.place not in ('completed', 'cancelled') offset 0) job on true
    left join lateral (select * from redisjobs.results r
      where r.queue = q and r.id = a.id and r.until_ms + 0 > now_ms offset 0) kept on true
    left join lateral (select * from redisjobs.progress p
      where p.queue = q and p.id = a.id and p.until_ms + 0 > now_ms offset 0) progress on true
  ) s;
  return coalesce(found, '[]');
end $$;

create function redisjobs_f._as_dead(fields jsonb, progress text) returns jsonb language sql immutable as $$
  select jsonb_build_array('DEAD', '', null, coalesce(progress, ''), '', coalesce(fields->>'error', ''),
    coalesce(fields->>'error_type', ''), coalesce(fields->>'traceback', ''), coalesce(fields->>'reason', ''))
$$;

-- Return how a job ended if only its row is left. Null: there is no row.
create function redisjobs_f._trace_of(q text, of_id text) returns text language plpgsql stable as $$
begin
  return coalesce((
    select case j.place when 'completed' then 'NOT_KEPT' else 'CANCELLED' end from redisjobs.jobs j
    where j.queue = q and j.id = of_id and j.place in ('completed', 'cancelled') order by j.seq desc limit 1
  ), 'NOT_FOUND');
end $$;

-- Note a process that waits for jobs which have not ended. A job keeps the last 100 processes. A job that is just
-- ending either finds the process, or this call sees its end. The note is not durable, because a process asks
-- again from time to time.
create function redisjobs_f._await(q text, ids text[], of_process text, now_ms bigint) returns void
language plpgsql as $$
declare
  added text[];
begin
  perform set_config('synchronous_commit', 'off', true);
  added := redisjobs_f._unawaited(q, ids, of_process);
  if added <> '{}' then
    perform redisjobs_f._lock_pending(q, added);
    insert into redisjobs.waiters (queue, id, process, at_ms)
      select q, j.id, of_process, now_ms from redisjobs.jobs j
      where j.queue = q and j.id = any (added) and j.place not in ('dead', 'completed', 'cancelled')
      on conflict do nothing;
    delete from redisjobs.waiters w where w.ctid = any (array(
      select o.ctid from (
        select e.ctid, row_number() over (partition by e.id order by e.at_ms desc, e.process) as n
        from redisjobs.waiters e where e.queue = q and e.id = any (added)
      ) o where o.n > 100));
  end if;
end $$;

-- Return the ids for which a process is not noted yet.
create function redisjobs_f._unawaited(q text, ids text[], of_process text) returns text[] language plpgsql as $$
begin
  return array(select a.id from unnest(ids) a (id) where (
    select true from redisjobs.waiters w where w.queue = q and w.id = a.id and w.process = of_process) is null);
end $$;

-- Wait a moment for the ends of jobs that are being settled. Let no other job end until this transaction has
-- committed. Claims are not blocked by locks of this kind.
create function redisjobs_f._lock_pending(q text, ids text[]) returns void
language plpgsql set lock_timeout = '500ms' as $$
begin
  perform from redisjobs.jobs j where j.queue = q and j.id = any (ids)
    and j.place not in ('completed', 'cancelled')
    and j.place <> 'dead' order by j.id for key share;
exception when lock_not_available or deadlock_detected then
  null;
end $$;
