-- Pushes. A job is JSON with id, name, parameters and rank. Where needed it also has nonce, limit_key, extra
-- (other fields), unique, unique_for (ms), replace (whether it replaces the job that holds its key), after (ms) or
-- at (ms), expires_in (ms), and sent (ms: when it was first sent).

create function redisjobs_f._due(job jsonb, now_ms bigint) returns bigint language sql immutable as $$
  select coalesce((job->>'at')::bigint, ceil(now_ms + (job->>'after')::double precision)::bigint)
$$;

-- Return whether the first try of a push arrives, or seems to arrive, so long after it was sent that its job may
-- have ended and been forgotten. The client has tried that push again since, so nothing is written.
create function redisjobs_f._is_late(sent_ms bigint, now_ms bigint) returns boolean language plpgsql as $$
begin
  return coalesce(sent_ms < now_ms - 30000, false);
end $$;

-- Add jobs to the queue, each id once. `sent_ms` is when this call was sent, by the database's clock; see
-- `_is_late`. With `sent_ms` the call does not wait long for other transactions: it fails, or with `apart` a job
-- that would have to wait gets BUSY. The answer has for each job, in order, a word, or a word and the id of the
-- unique key's holder.
create function redisjobs_f.push(q text, given_ms bigint, jobs jsonb, repeated boolean,
  sent_ms bigint default null, apart boolean default false) returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  answers jsonb := '[]';
  its_answer jsonb;
  again text[] := '{}';
  added text[] := '{}';
  job jsonb;
begin
  if not repeated and redisjobs_f._is_late(sent_ms, now_ms) then
    return redisjobs_f._answer('"STALE"');
  end if;
  if sent_ms is not null then  -- without it, the transaction belongs to the caller
    perform redisjobs_f._need_read_committed();
    perform redisjobs_f._hurry(case when apart then '1ms' else '20ms' end);
  end if;
  perform pg_current_xact_id();  -- before any place in line is taken; see the floors of claims
  if not apart then
    select p.answers into answers from redisjobs_f._push_all(q, jobs, repeated, now_ms, again, added) p;
    return redisjobs_f._answer(answers);
  end if;
  for job in select value from jsonb_array_elements(jobs) loop
    begin
      select * into again, added, its_answer
      from redisjobs_f._push_all(q, jsonb_build_array(job), repeated, now_ms, again, added);
    exception when lock_not_available then
      its_answer := '["BUSY"]';
    end;
    answers := answers || its_answer;
  end loop;
  return redisjobs_f._answer(answers);
end $$;

-- Add jobs after other jobs of the same call; `again` and `added` describe those.
create function redisjobs_f._push_all(q text, jobs jsonb, repeated boolean, now_ms bigint, inout again text[],
  inout added text[], out answers jsonb) language plpgsql as $$
declare
  found_all jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(jobs)]);
  job jsonb;
  at bigint;
  one text;
  word text;
  holder text;
  known text;
begin
  for job, at in select * from redisjobs_f._in_order(jobs) loop
    one := (job->>'id') || ' ' || coalesce(job->>'nonce', '');
    holder := '';
    known := case when job ? 'remembers' then redisjobs_f._remembered(q, 'answer', one, now_ms) end;
    if one = any(again) then
      word := 'EXISTS';
    elsif known is not null then
      word := split_part(known, ' ', 1);
      holder := substr(known, length(word) + 2);
    else
      select p.word, p.holder into word, holder from redisjobs_f._push(q, job, one, added, repeated, now_ms) p;
      if word in ('OK', 'REPLACED') then
        added := added || (job->>'id');
      end if;
    end if;
    if known is not null or word in ('OK', 'REPEATED', 'REFUSED', 'REPLACED') then
      again := again || one;
    elsif repeated and word <> 'UNKNOWN' and not one = any(again) then
      perform redisjobs_f._remember(q, 'refused', one, '', now_ms + 60000);
      perform redisjobs_f._remember_answer(q, job, one, word, holder, now_ms);
    end if;
    found_all[at] := case when holder = '' then to_jsonb(word) else jsonb_build_array(word, holder) end;
  end loop;
  answers := to_jsonb(found_all);
end $$;

-- Return jobs with their places in line and in the call, in the order of their unique keys. The order keeps calls
-- that take several keys from waiting for each other. An id that comes twice belongs to the first job that has it.
create function redisjobs_f._in_order(jobs jsonb) returns table (job jsonb, at bigint) language plpgsql as $$
declare
  any_twice constant boolean := (select count(distinct value->>'id') < count(*) from jsonb_array_elements(jobs));
begin
  return query
    with numbered as materialized (
      select value || jsonb_build_object('seq', nextval('redisjobs.line')) as job, ordinality as at
      from jsonb_array_elements(jobs) with ordinality
    )
    select n.job, n.at from numbered n order by case when not any_twice
      then n.job->>'unique' end collate "C" nulls first, n.at;
end $$;

-- Return the place in line of a new job.
create function redisjobs_f._place_of(job jsonb) returns bigint language plpgsql as $$
begin
  return coalesce((job->>'seq')::bigint, nextval('redisjobs.line'));
end $$;

-- Remember the answer to a push that met a unique key, so that a repeated push gets the same answer.
create function redisjobs_f._remember_answer(q text, job jsonb, one text, word text, holder text, now_ms bigint)
  returns void language plpgsql as $$
begin
  if job ? 'remembers' and holder <> '' then
    perform redisjobs_f._remember(q, 'answer', one, word || ' ' || holder, now_ms + 60000);
  end if;
end $$;

-- Return whether a push, or its id, is known: REPEATED, EXISTS or null. `added` has the ids that this call has
-- added.
create function redisjobs_f._met(q text, job jsonb, one text, added text[], was_refused boolean, now_ms bigint)
  returns text language plpgsql as $$
declare
  job_id text := job->>'id';
  there redisjobs.jobs;
begin
  select * into there from redisjobs.jobs j
  where j.queue = q and j.id = job_id and j.place not in ('completed', 'cancelled');
  -- Look here after looking for the job: a job that ends in between is in the ledger then.
  return case
    when not was_refused and redisjobs_f._remembered(q, 'ended', one, now_ms) is not null then 'REPEATED'
    when there.id is null then null
    when not job_id = any(added) and (not job ? 'nonce' or coalesce(there.nonce, '') = job->>'nonce')
      then 'REPEATED'
    else 'EXISTS' end;
end $$;

-- Add a job, unless its push, its id or its unique key is known.
create function redisjobs_f._push(q text, job jsonb, one text, added text[], repeated boolean, now_ms bigint,
  out word text, out holder text) language plpgsql as $$
declare
  was_refused boolean := repeated and redisjobs_f._remembered(q, 'refused', one, now_ms) is not null;
begin
  holder := '';
  word := redisjobs_f._met(q, job, one, added, was_refused, now_ms);
  if word = 'REPEATED' then
    return;
  elsif repeated and not was_refused and now_ms - (job->>'sent')::double precision > 60000 then
    word := 'UNKNOWN';  -- the job may have ended, and its push may be forgotten
  elsif word = 'EXISTS' then
    return;
  elsif was_refused and redisjobs_f._would_add(q, job, now_ms) then
    word := 'REFUSED';
  else
    select a.word, a.holder into word, holder from redisjobs_f._add(q, job, now_ms) a;
    if word = 'OK' and not was_refused and redisjobs_f._remembered(q, 'ended', one, now_ms) is not null then
      -- The job ended between the look at the ledger and the insert.
      perform redisjobs_f._unpush(q, job);
      word := 'REPEATED';
    elsif word in ('EXISTS', 'DUPLICATE')
      and redisjobs_f._met(q, job, one, added, was_refused, now_ms) is not distinct from 'REPEATED' then
      -- Another try of this push was committed while this one waited for it.
      word := 'REPEATED';
      holder := '';
    elsif word = 'REPLACED' then
      perform redisjobs_f._remember_answer(q, job, one, word, holder, now_ms);
    end if;
  end if;
end $$;

create function redisjobs_f._unpush(q text, job jsonb) returns void language plpgsql as $$
begin
  delete from redisjobs.jobs j where j.queue = q and j.id = job->>'id'
    and j.place not in ('completed', 'cancelled');
  delete from redisjobs.uniques u where u.queue = q and u.key = job->>'unique' and u.id = job->>'id';
  perform redisjobs_f._count(q, 'pushed', -1);
end $$;

-- Return whether a job would be added, or would replace another one.
create function redisjobs_f._would_add(q text, job jsonb, now_ms bigint) returns boolean language plpgsql as $$
declare
  holder text := redisjobs_f._holder(q, job->>'unique', now_ms);
begin
  return holder = '' or redisjobs_f._replaceable(q, holder, job);
end $$;

-- Return whether the job that holds a new job's unique key waits and should be replaced. A job with saved steps is
-- not replaced, because they don't fit other parameters. A child is not replaced, because its parent waits for it.
--
-- If the job is replaceable its row is locked, and only then. Postgres also locks a row that it has waited for and
-- that no longer matches. The end of a job that has started would then wait for the caller's transaction. So a
-- subtransaction gives such a lock back.
create function redisjobs_f._replaceable(q text, holder text, job jsonb) returns boolean language plpgsql as $$
begin
  if not job ? 'replace' then
    return false;
  end if;
  perform from redisjobs.jobs j
  where j.queue = q and j.id = holder and j.place not in ('suspended', 'running', 'dead', 'completed', 'cancelled')
    and job->>'unique' in (coalesce(j.unique_key, ''), coalesce(j.extra->>'window', '')) and not j.cancelling
    and not coalesce(j.extra ?| '{steps,child_of}', false)
  for update;
  if not found then
    raise no_data_found;
  end if;
  return true;
exception when no_data_found then
  return false;
end $$;

-- Add a job. If another job holds its unique key, replace that job or leave it unchanged. The key of `parent`
-- counts as free, because that job ends and pushes this one.
create function redisjobs_f._add(q text, job jsonb, now_ms bigint, parent text default '',
  out word text, out holder text) language plpgsql as $$
declare
  due bigint := redisjobs_f._due(job, now_ms);
  fields jsonb := redisjobs_f._fields_of(job, due, now_ms);
  until_ms bigint := now_ms + (job->>'unique_for')::bigint;
  known text;
begin
  holder := redisjobs_f._take_key(q, job->>'unique', job->>'id', until_ms, now_ms, parent);
  due := case when due > now_ms then due end;
  if holder <> '' and redisjobs_f._replaceable(q, holder, job) then
    -- Another try of this push may have been committed while this one waited for the job.
    known := redisjobs_f._remembered(q, 'answer', (job->>'id') || ' ' || coalesce(job->>'nonce', ''), now_ms);
    if holder = job->>'id' or known is not null then
      word := coalesce(split_part(known, ' ', 1), 'DUPLICATE');
      return;
    end if;
    perform redisjobs_f._replace(q, job, holder, fields, due, now_ms);
    word := 'REPLACED';
    return;
  end if;
  -- The holder may have been claimed or have ended since, and hold no key any more.
  if holder <> '' and job ? 'replace' then
    holder := redisjobs_f._take_key(q, job->>'unique', job->>'id', until_ms, now_ms, parent);
  end if;
  if holder <> '' then
    word := 'DUPLICATE';
    return;
  end if;
  insert into redisjobs.jobs (seq, queue, id, name, parameters, extra, rank, place, since_ms,
    due_ms, nonce, unique_key,
    limit_key)
  values (redisjobs_f._place_of(job), q, job->>'id', job->>'name', job->>'parameters', fields,
    (job->>'rank')::smallint,
    case when due is null then 'ready' else 'delayed' end, now_ms, due, job->>'nonce',
    case when not job ? 'unique_for' then job->>'unique' end, job->>'limit_key')
  on conflict (queue, id) where place not in ('completed', 'cancelled') do nothing;
  if not found then
    delete from redisjobs.uniques u where u.queue = q and u.key = job->>'unique' and u.id = job->>'id';
    word := 'EXISTS';
    return;
  end if;
  -- Not if this push's own job has ended since `_push` looked: its result stays.
  if job ? 'nonce' and redisjobs_f._remembered(q, 'ended',
    (job->>'id') || ' ' || (job->>'nonce'), now_ms) is null then
    perform redisjobs_f._forget_end(q, job->>'id');
  end if;
  perform redisjobs_f._count(q, 'pushed');
  perform redisjobs_f._announce(q, due, now_ms);
  word := 'OK';
end $$;

create function redisjobs_f._fields_of(job jsonb, due bigint, now_ms bigint)
  returns jsonb language sql immutable as $$
  select nullif(coalesce(job->'extra', '{}')
    || case when job ? 'expires_in' then jsonb_build_object('expires_at',
      (now_ms + (job->>'expires_in')::bigint)::text)
       else '{}' end
    || case when job ? 'unique_for' then jsonb_build_object('window', job->>'unique') else '{}' end
    || case when due > now_ms and not coalesce(job->'extra' ? 'queued_at', false)
       then jsonb_build_object('queued_at', now_ms::text) else '{}' end, '{}')
$$;

-- Give a waiting job the content of a new push. It keeps its id, nonce, attempt, history and time of push.
create function redisjobs_f._replace(q text, job jsonb, holder text, fields jsonb, due bigint, now_ms bigint)
  returns void language plpgsql as $$
begin
  update redisjobs.jobs j set seq = redisjobs_f._place_of(job), name = job->>'name',
    parameters = job->>'parameters',
    rank = (job->>'rank')::smallint, limit_key = job->>'limit_key',
    unique_key = case when not job ? 'unique_for' then job->>'unique' end,
    extra = coalesce(fields, '{}') || jsonb_strip_nulls(jsonb_build_object('attempt', j.extra->>'attempt',
      'error', j.extra->>'error', 'started_at', j.extra->>'started_at',
      'queued_at', coalesce(j.extra->>'queued_at', least(j.since_ms, now_ms)::text))),
    place = case when due is null then 'ready' else 'delayed' end, due_ms = due, since_ms = now_ms, deliveries = 0,
    at_ms = 0, was_alone = false
  where j.queue = q and j.id = holder and j.place not in ('completed', 'cancelled');
  update redisjobs.jobs j set place = 'parked' where j.queue = q and j.id = holder and j.place = 'ready'
    and exists (select from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = holder);
  update redisjobs.uniques u set until_ms = now_ms + (job->>'unique_for')::bigint
  where u.queue = q and u.key = job->>'unique';
  perform redisjobs_f._count(q, 'replaced');
  perform redisjobs_f._announce(q, due, now_ms);
end $$;

-- Add jobs that have generated ids, no unique key, and that no earlier call can have sent. The answers are those
-- of `push`.
create function redisjobs_f.push_plain(q text, given_ms bigint, ids text[], names text[], parameters text[],
  ranks smallint[], extras text[], limit_keys text[], afters double precision[], ats bigint[], expires bigint[],
  sent_ms bigint) returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  added text[];
  twice text[];
  first_ms bigint;
  any_ready boolean;
begin
  if redisjobs_f._is_late(sent_ms, now_ms) then
    return redisjobs_f._answer('"STALE"');
  end if;
  perform redisjobs_f._need_read_committed();
  perform pg_current_xact_id();
  with given as materialized (
    select *, coalesce(at_ms, ceil(now_ms + after_ms)::bigint) as wanted_ms, nextval('redisjobs.line') as seq
    from unnest(ids, names, parameters, ranks, extras::jsonb[], limit_keys, afters, ats, expires)
      as job(id, name, parameters, rank, extra, limit_key, after_ms, at_ms, expires_in)
  ), made as (
    insert into redisjobs.jobs (seq, queue, id, name, parameters, extra, rank, place, since_ms, due_ms, limit_key)
    select g.seq, q, g.id, g.name, g.parameters,
      case when g.expires_in is null and not coalesce(g.wanted_ms > now_ms, false) then g.extra
        else redisjobs_f._fields_of(jsonb_strip_nulls(jsonb_build_object('extra', g.extra,
          'expires_in', g.expires_in)),
          g.wanted_ms, now_ms) end,
      g.rank, case when g.wanted_ms > now_ms then 'delayed' else 'ready' end, now_ms,
      case when g.wanted_ms > now_ms then g.wanted_ms end, g.limit_key
    from given g order by g.seq
    on conflict (queue, id) where place not in ('completed', 'cancelled') do nothing
    returning id, due_ms
  )
  select coalesce(array_agg(id), '{}'), min(due_ms), bool_or(due_ms is null) into added, first_ms, any_ready
  from made;
  -- The keys form one array. Joined with the ids, every row of the ledger was compared with each id.
  select array_agg(distinct substr(l.key, 7, length(l.key) - 7)) into twice from redisjobs.ledger l
  where l.queue = q and l.key = any (array(select 'ended ' || id || ' ' from unnest(added) as made(id)))
    and l.until_ms > now_ms;
  if twice is not null then  -- an earlier or a later try of this push came first, and the job has ended
    delete from redisjobs.jobs j where j.queue = q and j.id = any(twice)
      and j.place not in ('completed', 'cancelled');
  end if;
  perform redisjobs_f._count(q, 'pushed', cardinality(added) - coalesce(cardinality(twice), 0));
  if any_ready then
    perform redisjobs_f._announce(q, null, now_ms);
  end if;
  if first_ms is not null then
    perform redisjobs_f._announce(q, first_ms, now_ms);
  end if;
  if cardinality(added) = cardinality(ids) and twice is null then
    return redisjobs_f._answer('"OK"');
  end if;
  return redisjobs_f._answer((
    select jsonb_agg(case when earlier > 0 then 'EXISTS' when id = any(twice)
      or not id = any(added) then 'REPEATED'
      else 'OK' end order by at)
    from (select id, at, row_number() over (partition by id order by at) - 1 as earlier
      from unnest(ids) with ordinality as job(id, at)) numbered
  ));
end $$;
