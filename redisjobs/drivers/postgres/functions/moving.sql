-- Jobs move to other stores, and arrive from them: see redisjobs/model/moving.py.

-- Return the name of a queue among the queues of all stores. The first call creates the name.
create function redisjobs_f._name_of(q text, now_ms bigint) returns text language plpgsql as $$
begin
  insert into redisjobs.settings values (q, 'name', gen_random_uuid()::text, now_ms) on conflict do nothing;
  return (select s.value from redisjobs.settings s where s.queue = q and s.name = 'name');
end $$;

create function redisjobs_f._state_of(place text) returns text language sql immutable as $$
  select case when place in ('ready', 'returned', 'alone', 'parked', 'line') then 'ready' else place end
$$;

-- Put jobs in transit. The caller gives the state of each job, and its `seq`, or the id of a delayed job. A job
-- stays if its children have returned more than `most_bytes`. The answer is {name, words}.
create function redisjobs_f.take(q text, given_ms bigint, ids text[], states text[], seqs bigint[],
  most_bytes bigint) returns text language plpgsql set lock_timeout = '2s' as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  its_name constant text := redisjobs_f._name_of(q, now_ms);
  locked bigint[];
  taken bigint[];
  numbers bigint[];
  staying bigint[];
  looked bigint;  -- the first job not looked at, because the jobs before it have saved about 1 MB
begin
  -- One call at a time, because jobs must come into transit in the order of their places.
  perform pg_advisory_xact_lock(hashtextextended('redisjobs take ' || q, 0));
  perform redisjobs_f._share(q);
  seqs := array(select case when w.seq is null then (select j.seq from redisjobs.jobs j
        where j.queue = q and j.id = w.id and j.place not in ('completed', 'cancelled'))
      else (select j.seq from redisjobs.jobs j where j.seq = w.seq and j.id is not distinct from w.id) end
    from unnest(ids, seqs) with ordinality w (id, seq, n) order by w.n);
  locked := array(select j.seq from unnest(seqs) s(seq) join redisjobs.jobs j on j.seq = s.seq
    where j.place is distinct from 'running' order by s.seq for update of j);
  select array_agg(t.seq order by t.n), array_agg(t.n) into taken, numbers from (
    -- Only jobs in the given states: a job that ran when it was listed may have been handed back and claimed
    -- since.
    select l.seq, min(w.n) as n from unnest(locked) l(seq)
    join unnest(states, seqs) with ordinality w (state, seq, n)
      on w.seq = l.seq join redisjobs.jobs j on j.seq = l.seq
    where j.queue = q and redisjobs_f._state_of(j.place) = w.state and w.state <> 'running' group by l.seq
  ) t;
  staying := array(select s.n from unnest(taken, numbers) s(seq, n) join redisjobs.jobs j on j.seq = s.seq
    where redisjobs_f._stays(j, most_bytes));
  if staying <> '{}' then
    taken := array(select s.seq from unnest(taken, numbers) s(seq, n) where s.n <> all (staying) order by s.n);
    numbers := array(select n from unnest(numbers) n where n <> all (staying) order by n);
  end if;
  looked := (select min(w.n)
    from (select s.n, sum(redisjobs_f._saved_bytes(j)) over (order by s.n) - redisjobs_f._saved_bytes(j)
      as before from unnest(taken, numbers) s(seq, n) join redisjobs.jobs j on j.seq = s.seq) w
        where w.before >= 1048576);
  if looked is not null then
    taken := array(select s.seq from unnest(taken, numbers) s(seq, n) where s.n < looked order by s.n);
    numbers := array(select n from unnest(numbers) n where n < looked);
  end if;
  if taken is not null then
    perform redisjobs_f._take(q, taken, now_ms);
  end if;
  return redisjobs_f._answer(jsonb_build_object('name', its_name, 'words', (
    select coalesce(jsonb_agg(case when n = any (numbers) then 'OK' when n >= looked then 'PARTIAL'
      when n = any (staying) then 'STAYS' else 'NOT_FOUND' end
      order by n), '[]')
    from generate_series(1, cardinality(seqs)) n)));
end $$;

-- Return whether the steps under a job's id belong to this job. The steps of an ended job are gone, and a new job
-- may have its id.
create function redisjobs_f._keeps_steps(job redisjobs.jobs) returns boolean language plpgsql immutable as $$
begin
  return coalesce(job.extra ? 'steps', false) and job.place not in ('completed', 'cancelled');
end $$;

-- Return the tokens of a job's groups of children.
create function redisjobs_f._tokens_of(job redisjobs.jobs) returns text[] language plpgsql stable as $$
begin
  return case when redisjobs_f._keeps_steps(job) then array(
    select s.value from redisjobs.steps s where s.queue = job.queue and s.id = job.id and s.how = 'children')
      else '{}' end;
end $$;

-- Return whether a job or its parent waits for children, or whether its own children have returned more than
-- `most_bytes`.
create function redisjobs_f._stays(job redisjobs.jobs, most_bytes bigint)
  returns boolean language plpgsql stable as $$
declare
  tokens constant text[] := redisjobs_f._tokens_of(job);
begin
  return job.place not in ('completed', 'cancelled') and exists (select from redisjobs.groups g
    where g.queue = job.queue
      and g.token = any (tokens || split_part(job.extra->>'child_of', ' ', 1)) and g.pending > 0)
    or redisjobs_f._outcome_bytes(job.queue, tokens) > most_bytes;
end $$;

-- Return the number of bytes of results and errors of ended children. Null: no child has ended.
create function redisjobs_f._outcome_bytes(q text, tokens text[]) returns bigint language plpgsql stable as $$
begin
  return (select sum(coalesce(octet_length(c.value), 0) + coalesce(octet_length(c.error), 0))
    from redisjobs.children c
    where c.queue = q and c.token = any (tokens));
end $$;

-- Return how the children of a job's groups have ended, in the form of `taken`.
create function redisjobs_f._outcomes(job redisjobs.jobs) returns jsonb language plpgsql stable as $$
begin
  return (select jsonb_object_agg(each.token, each.outcomes) from (
    select c.token, jsonb_agg(jsonb_build_array(c.id, c.state, c.value, c.error, c.error_type, c.reason)
      order by c.index) as outcomes
    from redisjobs.children c where c.queue = job.queue and c.token = any (redisjobs_f._tokens_of(job))
    group by c.token) each);
end $$;

-- Return the approximate number of bytes of a job's saved steps, its signals, and the outcomes of its children.
create function redisjobs_f._saved_bytes(job redisjobs.jobs) returns bigint language plpgsql stable as $$
declare
  bytes bigint := coalesce(octet_length(job.signals::text), 0);
begin
  if redisjobs_f._keeps_steps(job) then
    bytes := bytes + coalesce(redisjobs_f._outcome_bytes(job.queue, redisjobs_f._tokens_of(job)), 0)
      + (select coalesce(sum(octet_length(s.key) + coalesce(octet_length(s.value), 0)), 0)
      from redisjobs.steps s where s.queue = job.queue and s.id = job.id);
  end if;
  return bytes;
end $$;

-- Return a job's saved steps in the form of `taken`.
create function redisjobs_f._saved(job redisjobs.jobs) returns jsonb language plpgsql stable as $$
begin
  if redisjobs_f._keeps_steps(job) then
    return (select jsonb_agg(to_jsonb(s) - array['queue', 'id']) from redisjobs.steps s
      where s.queue = job.queue and s.id = job.id);
  end if;
  return null;
end $$;

-- Put these jobs in transit, in this order. Their rows are locked.
create function redisjobs_f._take(q text, taken bigint[], now_ms bigint) returns void language plpgsql as $$
declare
  -- Greater than all places before, even after a loss of data.
  last constant bigint := greatest(
    (select s.value::bigint from redisjobs.settings s where s.queue = q and s.name = 'taken'),
    floor(extract(epoch from clock_timestamp()) * 1000000)::bigint);
  waiting text[];
begin
  insert into redisjobs.taken (queue, place, id, state, rank, since_ms, due_ms, held, taken_ms,
    name, parameters, extra,
    nonce, unique_key, limit_key, history, steps, signals, children)
  select q, last + t.n, j.id, redisjobs_f._state_of(j.place), j.rank, j.since_ms, j.due_ms,
    redisjobs_f._waits(j.place) and exists (
      select from redisjobs.rules r where r.queue = q and r.kind = 'held' and r.name = j.id),
    now_ms, j.name, j.parameters,
    jsonb_build_object('queued_at', least(j.since_ms, now_ms)::text) || coalesce(j.extra, '{}'),
    j.nonce, j.unique_key, j.limit_key, j.history, redisjobs_f._saved(j), j.signals, redisjobs_f._outcomes(j)
  from unnest(taken) with ordinality t (seq, n) join redisjobs.jobs j on j.seq = t.seq;
  insert into redisjobs.settings values (q, 'taken', (last + cardinality(taken))::text, now_ms)
    on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;

  waiting := array(select j.id from unnest(taken) t(seq) join redisjobs.jobs j on j.seq = t.seq
    where redisjobs_f._waits(j.place));
  delete from redisjobs.rules r using unnest(waiting) w(id)
  where r.queue = q and r.kind = 'held' and r.name = w.id;
  delete from redisjobs.waiters r using unnest(waiting) w(id) where r.queue = q and r.id = w.id;
  perform redisjobs_f._free_keys(q, array_agg(j.unique_key), array_agg(j.id))
    from unnest(taken) t(seq) join redisjobs.jobs j on j.seq = t.seq
    where j.unique_key is not null and redisjobs_f._waits(j.place);
  perform redisjobs_f._forget_steps(j) from unnest(taken) t(seq) join redisjobs.jobs j on j.seq = t.seq
    where redisjobs_f._keeps_steps(j);
  perform redisjobs_f._remember_end(j, now_ms) from unnest(taken) t(seq) join redisjobs.jobs j on j.seq = t.seq;
  delete from redisjobs.jobs j using unnest(taken) t(seq) where j.seq = t.seq;
end $$;

-- Not in SQL: Postgres would inline the condition of the index of ids, and might choose that index.
create function redisjobs_f._waits(place text) returns boolean language plpgsql immutable as $$
begin
  return place not in ('running', 'dead', 'completed', 'cancelled');
end $$;

-- Return jobs in transit after a place, in order: up to `most` jobs, or about 1 MB.
create function redisjobs_f.find_taken(q text, given_ms bigint, after bigint, most integer)
  returns table (meta text, id text, name text, parameters text, extra text, nonce text, unique_key text,
    limit_key text, history text, steps text, signals text, children text)
  language plpgsql stable as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
begin
  return query
    select json_build_object('place', (s.job).place, 'state', (s.job).state, 'rank', (s.job).rank,
        'since', (s.job).since_ms, 'due', (s.job).due_ms, 'held', (s.job).held, 'taken', (s.job).taken_ms,
        'window', redisjobs_f._window_of(s.job, now_ms), 'ending', redisjobs_f._ending_of(s.job, now_ms))::text,
      (s.job).id, (s.job).name, (s.job).parameters, (s.job).extra::text, (s.job).nonce, (s.job).unique_key,
      (s.job).limit_key, (s.job).history, (s.job).steps::text, (s.job).signals::text, (s.job).children::text
    from (
      select page.job, row_number() over (order by (page.job).place) as n,
        sum(coalesce(octet_length(concat((page.job).parameters, (page.job).extra, (page.job).history,
            (page.job).steps, (page.job).signals, (page.job).children)), 0)
          + coalesce(redisjobs_f._result_bytes(page.job), 0)) over (order by (page.job).place) as bytes
      from (select c as job from redisjobs.taken c where c.queue = q and c.place > after
        order by c.place limit most) page
    ) s where s.n = 1 or s.bytes < 1048576 order by s.n;
  meta := redisjobs_f._answer(jsonb_build_object(
    'name', coalesce((select s.value from redisjobs.settings s where s.queue = q and s.name = 'name'), ''),
    'total', (select count(*) from redisjobs.taken t where t.queue = q)));
  return next;
end $$;

-- Return the bytes of the result that may come with a job in transit. Null: there is no result.
create function redisjobs_f._result_bytes(taken redisjobs.taken) returns integer language plpgsql stable as $$
begin
  return (select octet_length(r.value) from redisjobs.results r
    where taken.state not in ('ready', 'delayed', 'suspended') and r.queue = taken.queue and r.id = taken.id);
end $$;

-- Return until when a job in transit holds a unique key that it was pushed with for a time.
create function redisjobs_f._window_of(taken redisjobs.taken, now_ms bigint)
  returns bigint language plpgsql stable as $$
begin
  return (select u.until_ms from redisjobs.uniques u
    where u.queue = taken.queue and u.key = taken.extra->>'window' and u.id = taken.id and u.until_ms > now_ms);
end $$;

-- Return how a job in transit has ended, if its result is kept and no other job has its id now.
create function redisjobs_f._ending_of(taken redisjobs.taken, now_ms bigint)
  returns jsonb language plpgsql stable as $$
begin
  if taken.state in ('ready', 'delayed', 'suspended')
    or redisjobs_f._seq_of(taken.queue, taken.id) is not null then
    return null;
  end if;
  return (select to_jsonb(r) from redisjobs.results r
    where r.queue = taken.queue and r.id = taken.id and r.until_ms + 0 > now_ms);
end $$;

create function redisjobs_f.forget_taken(q text, given_ms bigint, places bigint[])
  returns text language plpgsql as $$
begin
  delete from redisjobs.taken t using unnest(places) p(place) where t.queue = q and t.place = p.place;
  return redisjobs_f._answer('"OK"');
end $$;

-- Add jobs that were taken out of a queue elsewhere, in the order of their places. A place is a text of digits,
-- and all places have the same length.
--
-- A job has all the fields that `push` reads, and: place, state, since (ms). Where needed it also has due (ms),
-- held, window (until when it holds a unique key that it has for a time), history, ending (how it ended, like a
-- row of `results`), steps, signals and children (as in `taken`).
--
-- The answers are those of `push`: OK, REPEATED, EXISTS, DUPLICATE or OVERSIZED.
create function redisjobs_f.import_jobs(q text, given_ms bigint, source text, jobs jsonb)
  returns text language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
  noted_as constant text := 'imported ' || source;
  its_source constant text := source;
  last text;  -- the place of the last job
  refused text[];  -- places of jobs that were refused before
  its_place text;
  answers jsonb := '[]';
  job jsonb;
  word text;
  holder text;
begin
  perform pg_current_xact_id();  -- before any place in line is taken; see the floors of claims
  perform redisjobs_f._share(q);
  insert into redisjobs.settings values (q, noted_as, '', now_ms) on conflict do nothing;
  select s.value into last from redisjobs.settings s where s.queue = q and s.name = noted_as for update;
  refused := array(select r.place from jsonb_array_elements(jobs) j join redisjobs.refused r
    on r.queue = q and r.source = its_source and r.place = j.value->>'place');
  for job in select value from jsonb_array_elements(jobs) with ordinality order by ordinality loop
    word := 'REPEATED';
    holder := '';
    its_place := job->>'place';
    if its_place collate "C" > last or its_place = any (refused) then
      select i.word, i.holder into word, holder from redisjobs_f._import(q, job, now_ms) i;
      if word <> 'OK' and its_place <> all (refused) then
        insert into redisjobs.refused values (q, its_source, its_place);
        refused := refused || its_place;
      elsif word = 'OK' and its_place = any (refused) then
        delete from redisjobs.refused r where r.queue = q and r.source = its_source and r.place = its_place;
        refused := array_remove(refused, its_place);
      end if;
      last := greatest(last collate "C", its_place);
    end if;
    answers := answers || jsonb_build_array(case when holder = '' then to_jsonb(word)
      else jsonb_build_array(word, holder) end);
  end loop;
  update redisjobs.settings s set value = last, at_ms = now_ms where s.queue = q and s.name = noted_as;
  return redisjobs_f._answer(answers);
end $$;

-- Return the unique key that a job from elsewhere holds. Null: it holds none.
create function redisjobs_f._key_of(job jsonb, now_ms bigint) returns text language sql immutable as $$
  select case when job->>'state' in ('ready', 'delayed', 'suspended') then
    -- A key that is held until the start is free once the job has started.
    coalesce(case when not job->'extra' ? 'steps' or coalesce(job->'extra'->>'unique_until', '') <> 'start'
      then job->>'unique' end,
      case when (job->>'window')::bigint > now_ms then job->'extra'->>'window' end) end
$$;

-- Add a job from elsewhere. Return OK, EXISTS, OVERSIZED, or DUPLICATE and the job that holds its unique key.
create function redisjobs_f._import(q text, job jsonb, now_ms bigint, out word text, out holder text)
  language plpgsql as $$
declare
  its_key constant text := redisjobs_f._key_of(job, now_ms);
  its_state constant text := job->>'state';
  waits constant boolean := its_state in ('ready', 'delayed', 'suspended');
  is_suspended constant boolean := its_state = 'suspended';  -- until it is promoted, even if its time has come
  due constant bigint := case when is_suspended or waits and (job->>'due')::bigint > now_ms
    then (job->>'due')::bigint end;
begin
  holder := '';
  word := 'OVERSIZED';
  if greatest(octet_length(job->>'id'), octet_length(its_key),
    octet_length(concat(job->>'name', job->>'limit_key')),
      -- longer than an index entry can be, together with the queue's name
      octet_length(redisjobs_f._kind_of(job->'extra'))) > 2000 then
    return;
  end if;
  word := 'EXISTS';
  if its_state not in ('completed', 'cancelled') and exists (select from redisjobs.jobs j
      where j.queue = q and j.id = job->>'id' and j.place not in ('completed', 'cancelled')) then
    return;
  end if;
  holder := redisjobs_f._take_key(q, its_key, job->>'id',
    case when not job ? 'unique' then (job->>'window')::bigint end, now_ms);
  if holder <> '' then
    word := 'DUPLICATE';
    return;
  end if;
  insert into redisjobs.jobs (seq, queue, id, name, parameters, extra, rank, place, since_ms,
    due_ms, nonce, unique_key,
    limit_key, history, kind, signals)
  values (nextval('redisjobs.line'), q, job->>'id', job->>'name', job->>'parameters', job->'extra',
    (job->>'rank')::smallint,
    case when not waits or is_suspended then its_state when due is not null then 'delayed' when job ? 'held'
    then 'parked' else 'ready' end,
    case when waits then now_ms else (job->>'since')::bigint end, due, job->>'nonce',
    job->>'unique', job->>'limit_key',
    job->>'history', case when its_state = 'dead' then redisjobs_f._kind_of(job->'extra') end, job->'signals')
  on conflict (queue, id) where place not in ('completed', 'cancelled') do nothing;
  if not found then
    delete from redisjobs.uniques u where u.queue = q and u.key = its_key and u.id = job->>'id';
    return;
  end if;
  word := 'OK';
  if job ? 'steps' then
    insert into redisjobs.steps select s.* from jsonb_array_elements(job->'steps') e(step), jsonb_populate_record(
      null::redisjobs.steps, e.step || jsonb_build_object('queue', q, 'id', job->>'id')) s;
  end if;
  if job ? 'children' then
    perform redisjobs_f._keep_outcomes(q, job);
  end if;
  if waits then
    perform redisjobs_f._begin_waiting(q, job, due, now_ms);
  elsif job ? 'ending' then
    perform redisjobs_f._keep_ending(q, job, now_ms);
  end if;
end $$;

-- Keep how the children of a job from elsewhere have ended.
create function redisjobs_f._keep_outcomes(q text, job jsonb) returns void language plpgsql as $$
begin
  insert into redisjobs.groups
  select q, s.token, job->>'id', s.key, jsonb_array_length(job->'children'->s.token), 0 from (
    select value->>'key' as key, value->>'value' as token from jsonb_array_elements(job->'steps')
    where value->>'how' = 'children'
  ) s where job->'children' ? s.token;
  insert into redisjobs.children (queue, token, index, id, state, value, error, error_type, reason)
  select q, e.token, o.n - 1, nullif(o.outcome->>0, ''), o.outcome->>1, o.outcome->>2, o.outcome->>3,
    o.outcome->>4, o.outcome->>5
  from jsonb_each(job->'children') e(token, outcomes) cross join lateral jsonb_array_elements(e.outcomes)
    with ordinality o(outcome, n);
end $$;

-- Hold a waiting job if it was held, and announce it.
create function redisjobs_f._begin_waiting(q text, job jsonb, due bigint, now_ms bigint)
  returns void language plpgsql as $$
begin
  if job ? 'held' then
    insert into redisjobs.rules (queue, kind, name, since_ms) values (q, 'held', job->>'id', now_ms)
    on conflict do nothing;
  end if;
  perform redisjobs_f._forget_end(q, job->>'id');
  if due is not null or job->>'state' <> 'suspended' then
    perform redisjobs_f._announce(q, due, now_ms);
  end if;
end $$;

-- Keep the result of a job that ended elsewhere, unless another job has its id. Of two runs with this id, the run
-- whose result is kept longer has usually ended later.
create function redisjobs_f._keep_ending(q text, job jsonb, now_ms bigint) returns void language plpgsql as $$
declare
  ended constant redisjobs.results := jsonb_populate_record(null::redisjobs.results,
    job->'ending' || jsonb_build_object('queue', q, 'id', job->>'id'));
begin
  if ended.until_ms > now_ms and (job->>'state' = 'dead' or not exists (select from redisjobs.jobs j
      where j.queue = q and j.id = ended.id and j.place not in ('completed', 'cancelled'))) then
    insert into redisjobs.results select ended.*
    on conflict (queue, id) do update set (ending, value, value_until_ms, error, error_type, until_ms) =
      (excluded.ending, excluded.value, excluded.value_until_ms, excluded.error,
        excluded.error_type, excluded.until_ms)
      where job->>'state' = 'dead' or results.until_ms < excluded.until_ms;
  end if;
end $$;

-- Return the retention that `retain` has set. Null: it was never set.
create function redisjobs_f.find_retention(q text, given_ms bigint) returns text language plpgsql stable as $$
begin
  return redisjobs_f._answer(coalesce(
    (select s.value::jsonb from redisjobs.settings s where s.queue = q and s.name = 'retention'), 'null'));
end $$;
