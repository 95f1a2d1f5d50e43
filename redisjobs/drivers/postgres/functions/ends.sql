-- Jobs end as completed, cancelled or dead. Jobs that the queue retains stay, and waiting processes are notified.

-- End a job that is completed or cancelled. Keep it with these notes if the queue keeps such jobs. `result` comes
-- from the worker: `keep_ms`, and `value` (a text of JSON) or `refused`.
create function redisjobs_f._finish(job redisjobs.jobs, state text, notes jsonb, now_ms bigint,
  result jsonb default null, is_remembered boolean default true) returns void language plpgsql as $$
begin
  perform redisjobs_f._conclude(job, state, result, now_ms);
  perform redisjobs_f._forget_steps(job, state = 'cancelled');
  if is_remembered then
    perform redisjobs_f._remember_end(job, now_ms);
  end if;
  perform redisjobs_f._count(job.queue, state);
  if redisjobs_f._retained(job.queue, state) is null then
    delete from redisjobs.jobs j where j.seq = job.seq;
  else
    perform redisjobs_f._set_aside(job, state, jsonb_build_object('finished_at', now_ms::text) || notes, now_ms);
  end if;
end $$;

-- Make a job a dead letter, with notes about its failure.
create function redisjobs_f._dead_letter(job redisjobs.jobs, notes jsonb, now_ms bigint) returns void
language plpgsql as $$
declare
  known jsonb := jsonb_build_object('deliveries', job.deliveries::text, 'failed_at', now_ms::text);
begin
  perform redisjobs_f._count(job.queue, 'dead');
  job := redisjobs_f._set_aside(job, 'dead', known || notes, now_ms);
  perform redisjobs_f._conclude(job, 'dead', null, now_ms);
end $$;

-- Keep a job that has failed or ended, with some notes. Return its row.
create function redisjobs_f._set_aside(job redisjobs.jobs, state text, notes jsonb, now_ms bigint)
returns redisjobs.jobs language plpgsql as $$
declare
  fields jsonb := redisjobs_f._with(
    jsonb_build_object('queued_at', least(job.since_ms, now_ms)::text) || coalesce(job.extra, '{}'),
    jsonb_build_object('priority', (array['high', 'normal', 'low'])[job.rank + 1]) || notes);
begin
  update redisjobs.jobs j set
    seq = nextval('redisjobs.line'), place = state, since_ms = now_ms, due_ms = null,
      worker = null, deliveries = 0,
    at_ms = 0, cancelling = false, was_alone = false, extra = fields,
    kind = case when state = 'dead' then coalesce(fields->>'fingerprint', fields->>'reason', '') end,
    signals = case when state = 'dead' then job.signals end
    where j.seq = job.seq returning * into job;
  return job;
end $$;

-- Remember the push of a job, so that a repeated push adds nothing.
create function redisjobs_f._remember_end(job redisjobs.jobs, now_ms bigint) returns void language plpgsql as $$
begin
  perform redisjobs_f._remember(job.queue, 'ended', job.id || ' ' || coalesce(job.nonce, ''), '1', now_ms + 60000);
end $$;

-- Free a job's unique key, note how it ended if its result is kept, and notify waiting processes.
create function redisjobs_f._conclude(job redisjobs.jobs, state text, result jsonb, now_ms bigint) returns void
language plpgsql as $$
declare
  result_value text := result->>'value';
  refused text := coalesce(result->>'refused', '');
  keep_ms bigint := coalesce(nullif((result->>'keep_ms')::bigint, 0), redisjobs_f._kept_ms(job), 0);
begin
  if job.unique_key <> '' then
    perform redisjobs_f._free_keys(job.queue, array[job.unique_key], array[job.id]);
  end if;
  if keep_ms > 0 and (refused <> '' or result_value is not null or state <> 'completed') then
    result_value := case when state = 'completed' and refused = '' then result_value end;
    insert into redisjobs.results values (
      job.queue, job.id,
      case when refused <> '' then 'REFUSED' when state = 'cancelled' then 'CANCELLED'
        when state = 'dead' then 'DEAD' else 'EXPIRED' end,
      result_value, now_ms + keep_ms,
      case when refused <> '' then refused when state = 'dead' then coalesce(job.extra->>'error', '') else '' end,
      case when refused = '' and state = 'dead' then coalesce(job.extra->>'error_type', '') else '' end,
      now_ms + keep_ms + least(keep_ms, 86400000)
    ) on conflict (queue, id) do update set (ending, value, value_until_ms, error, error_type, until_ms) =
      (excluded.ending, excluded.value, excluded.value_until_ms, excluded.error,
        excluded.error_type, excluded.until_ms);
    perform redisjobs_f._keep_reported(job, keep_ms, now_ms);
  end if;
  perform redisjobs_f._tell_waiters(job);
  delete from redisjobs.waiters w where w.queue = job.queue and w.id = job.id;
  if job.extra ? 'child_of' then
    perform redisjobs_f._end_child(job, state, result);
  end if;
end $$;

-- Return for how many ms a job's result is kept. Null: the push did not set it.
create function redisjobs_f._kept_ms(job redisjobs.jobs) returns bigint language sql immutable as $$
  select case when job.extra->>'keep_result' ~ '^[0-9]{1,13}$' then (job.extra->>'keep_result')::bigint end
$$;

-- Return how long jobs of a state are kept, as `Keep.text`: ms and number, `-` for no limit. Null: they are not
-- kept.
create function redisjobs_f._retained(q text, state text) returns text language plpgsql as $$
begin
  return nullif(coalesce(
    (select s.value::jsonb->>state from redisjobs.settings s where s.queue = q and s.name = 'retention'),
    case state when 'dead' then '2592000000 100000' end), '');
end $$;

-- Store a job's reported progress, a text of JSON, and notify the processes that wait for it.
create function redisjobs_f._report(job redisjobs.jobs, progress text, now_ms bigint) returns void
language plpgsql as $$
begin
  insert into redisjobs.progress values (job.queue, job.id, progress, now_ms + 86400000)
    on conflict (queue, id) do update set value = excluded.value, until_ms = excluded.until_ms;
  perform redisjobs_f._tell_waiters(job);
end $$;

-- Keep a job's last progress for another minute, for processes that watch the job.
create function redisjobs_f._end_progress(job redisjobs.jobs, now_ms bigint) returns void language plpgsql as $$
begin
  update redisjobs.progress p set until_ms = now_ms + 60000
    where p.queue = job.queue and p.id = job.id and p.until_ms > now_ms;
end $$;

create function redisjobs_f._tell_waiters(job redisjobs.jobs) returns void language plpgsql as $$
begin
  perform redisjobs_f._tell('changed', job.id, w.process)
    from redisjobs.waiters w where w.queue = job.queue and w.id = job.id;
end $$;

-- Forget how an earlier job with this id ended, and its progress and chunks.
create function redisjobs_f._forget_end(q text, of_id text) returns void language plpgsql as $$
begin
  delete from redisjobs.results r where r.queue = q and r.id = of_id;
  delete from redisjobs.progress p where p.queue = q and p.id = of_id;
  perform redisjobs_f._forget_chunks(q, of_id);
end $$;
