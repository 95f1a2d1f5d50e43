-- Schedules, the schedulers that declare them, and their slots; see redisjobs/model/stored.py. A row of
-- `schedulers` without an id says when any scheduler of its release last reported.

-- One call at a time changes the schedules of a queue, so that the numbers of changes are committed in order.
create function redisjobs_f._lock_schedules(q text) returns void language plpgsql as $$
begin
  perform redisjobs_f._need_read_committed();
  perform pg_advisory_xact_lock(hashtextextended('redisjobs schedules ' || q, 0));
end $$;

-- Lock the schedules with these names. All callers lock them in the same order.
create function redisjobs_f._lock_these(q text, named jsonb) returns void language plpgsql as $$
begin
  perform from (select value ->> 'name' as name from jsonb_array_elements(named) order by 1) asked
  cross join lateral (select from redisjobs.schedules s
    where s.queue = q and s.name = asked.name for update) there;
end $$;

-- Return the schedule of a name. Null: there is none.
create function redisjobs_f._schedule(q text, of_name text)
  returns redisjobs.schedules language plpgsql stable as $$
begin
  return (select s from redisjobs.schedules s where s.queue = q and s.name = of_name and not s.removed);
end $$;

-- Return whether a scheduler that reported at this time still counts. A time in the future does not count: the
-- clock was set back since.
create function redisjobs_f._is_now(reported_ms bigint, now_ms bigint) returns boolean language sql immutable as $$
  select abs(now_ms - reported_ms) < 30000  -- as THERE_MS
$$;

-- Return whether a scheduler of this release has reported lately.
create function redisjobs_f._is_served(q text, its_release text, now_ms bigint)
  returns boolean language plpgsql stable as $$
begin
  return exists (select from redisjobs.schedulers s
    where s.queue = q and s.release = its_release and s.id = '' and redisjobs_f._is_now(s.seen_ms, now_ms));
end $$;

create function redisjobs_f._is_declared(there redisjobs.schedules, now_ms bigint)
  returns boolean language plpgsql stable as $$
begin
  return there.declared_by is not null and redisjobs_f._is_served(there.queue, there.release, now_ms);
end $$;

-- Return the number of the last change of any schedule. 0: there is none yet.
create function redisjobs_f._last_change(q text) returns bigint language plpgsql stable as $$
begin
  return coalesce((select value::bigint from redisjobs.settings where queue = q and name = 'schedules'), 0);
end $$;

-- Return the number of the next change. Numbers only grow, and are at least the time, so they also grow after a
-- loss of data.
create function redisjobs_f._next_change(q text, now_ms bigint) returns bigint language plpgsql stable as $$
begin
  return greatest(redisjobs_f._last_change(q) + 1, now_ms);
end $$;

-- Note the number of the last change, and notify schedulers.
create function redisjobs_f._note_change(q text, number bigint, now_ms bigint) returns void language plpgsql as $$
begin
  insert into redisjobs.settings values (q, 'schedules', number::text, now_ms)
    on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;
  perform redisjobs_f._tell('schedules', number::text);
end $$;

-- Note that a scheduler is running. Return the number of running schedulers of its release, or 0 if this scheduler
-- had not reported lately.
create function redisjobs_f._report_scheduler(q text, scheduler text, its_release text, now_ms bigint)
  returns bigint language plpgsql as $$
declare
  was_there boolean := exists (select from redisjobs.schedulers s
    where s.queue = q and s.release = its_release and s.id = scheduler and redisjobs_f._is_now(s.seen_ms, now_ms));
begin
  -- Without this, a scheduler that is gone would count again when a clock that was set back catches up. Schedulers
  -- of other releases may still withdraw.
  delete from redisjobs.schedulers where ctid = any (array(
    select s.ctid from redisjobs.schedulers s
    where s.queue = q and not redisjobs_f._is_now(s.seen_ms, now_ms)
      and (s.id = '' or s.release = its_release or abs(now_ms - s.seen_ms) > 86400000)
    for update skip locked
  ));
  insert into redisjobs.schedulers values (q, its_release, scheduler, now_ms), (q, its_release, '', now_ms)
    on conflict (queue, release, id) do update set seen_ms = excluded.seen_ms;
  return case when was_there then (
    select count(*) from redisjobs.schedulers s
    where s.queue = q and s.release = its_release and s.id <> '' and redisjobs_f._is_now(s.seen_ms, now_ms)
  ) else 0 end;
end $$;

-- Put schedules, or declare them. `puts` has for each schedule its name and fingerprint, and where known
-- `definition` (its fields), `last_ms`, `since_ms` and `paused`; see `Put`. Without a scheduler, schedules are put
-- at run time. `began_ms` null means now.
--
-- The answer is {words, change, present, now}: a word for each schedule, the number of the last change, and the
-- number of schedulers of the release.
create function redisjobs_f.put_schedules(q text, given_ms bigint, scheduler text, its_release text,
  began_ms bigint, puts jsonb) returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  present bigint := 0;
  words jsonb := '[]';
begin
  if scheduler is not null then
    present := redisjobs_f._report_scheduler(q, scheduler, its_release, now_ms);
  end if;
  -- without puts take no lock, so that a scheduler can report while another scheduler's call lasts
  if puts <> '[]' then
    words := redisjobs_f._put(q, coalesce(its_release, ''), case when scheduler is not null
      then coalesce(began_ms, now_ms) end,
      puts, now_ms);
  end if;
  return redisjobs_f._answer(jsonb_build_object('words', words, 'change',
    redisjobs_f._last_change(q), 'present', present,
    'now', redisjobs_f._clock(given_ms)));
end $$;

-- Put schedules, or declare them. Return a word for each, in order. `began_ms` is null if they are put at run
-- time.
create function redisjobs_f._put(q text, its_release text, began_ms bigint, puts jsonb, now_ms bigint)
  returns jsonb language plpgsql as $$
declare
  first_change bigint;
  moved bigint;
  words jsonb;
begin
  perform redisjobs_f._lock_schedules(q);
  perform redisjobs_f._lock_these(q, puts);
  first_change := redisjobs_f._next_change(q, now_ms);
  with asked as materialized (
    select at, put.* from jsonb_array_elements(puts) with ordinality as each (item, at), jsonb_to_record(item)
      as put (name text, fingerprint text, definition jsonb, last_ms bigint, since_ms bigint, paused boolean)
  ), judged as materialized (
    select asked.*, there, there.fingerprint is not distinct from asked.fingerprint as is_same,
      case when asked.paused is not null and there.name is not null and there.declared_by is null
      and there.moved_to = '' then 'KEPT'
        else redisjobs_f._against(there, asked.fingerprint, asked.definition, asked.last_ms,
          began_ms, now_ms) end as word
    from asked, redisjobs_f._schedule(q, asked.name) there
  ), changed as materialized (
    select j.*, began_ms is null or not j.is_same as is_written,
      -- A scheduler that began later and declares the same schedule keeps it.
      j.is_same and (j.there).declared_by > began_ms and redisjobs_f._is_declared(j.there, now_ms) as stays
    from judged j where j.word is null
  ), numbered as materialized (
    select c.*, c.is_written or (c.there).release <> its_release and not c.stays as is_moved from changed c
  ), written as (
    insert into redisjobs.schedules (queue, name, fields, fingerprint, last_ms, change, declared_by, release,
      declared_ms, is_paused,
      moved_to)
    select q, n.name, case when n.is_written then n.definition else (n.there).fields end, n.fingerprint,
      case when n.paused is not null then greatest(n.since_ms, (n.there).last_ms)
        when n.is_written and (n.there).fields ->> 'rule' is distinct from n.definition ->> 'rule'
        -- Never earlier than the last slot: the clock may have been set back.
        then greatest(least(coalesce(n.since_ms, now_ms), now_ms), (n.there).last_ms) else (n.there).last_ms end,
      case when n.is_moved then first_change - 1 + count(*) filter (where n.is_moved) over (order by n.at)
        else (n.there).change end,
      case when n.stays then (n.there).declared_by else began_ms end,
      case when n.stays then (n.there).release else its_release end,
      case when began_ms is not null then now_ms end, coalesce(n.paused, (n.there).is_paused, false),
      case when n.is_written then '' else (n.there).moved_to end
    from numbered n
    on conflict (queue, name) do update set (fields, fingerprint, last_ms, change, declared_by, release,
      declared_ms, is_paused,
        moved_to, removed)
      = (excluded.fields, excluded.fingerprint, excluded.last_ms, excluded.change,
        excluded.declared_by, excluded.release,
        excluded.declared_ms, excluded.is_paused, excluded.moved_to, false)
  )
  select jsonb_agg(coalesce(j.word, 'OK') order by j.at), (select count(*) from numbered n where n.is_moved)
  into words, moved from judged j;
  if moved > 0 then
    perform redisjobs_f._note_change(q, first_change + moved - 1, now_ms);
  end if;
  delete from redisjobs.schedules where ctid = any (array(  -- no release has declared them for 31 days
    select s.ctid from redisjobs.schedules s where s.queue = q and s.declared_ms < now_ms - 2678400000
    order by s.declared_ms limit 100 for update skip locked
  ));
  return words;
end $$;

-- Return why a schedule may not be put or, with `began_ms`, not be declared. Null: it may.
create function redisjobs_f._against(there redisjobs.schedules, fingerprint text, definition jsonb, last_ms bigint,
  began_ms bigint, now_ms bigint) returns text language plpgsql stable as $$
declare
  is_declared boolean := redisjobs_f._is_declared(there, now_ms);
begin
  return case
    when began_ms is null then case when is_declared then 'DECLARED' end
    when there.name is null then case when definition is null then 'NOT_FOUND' end
    when there.declared_by is null then 'KEPT'
    when there.fingerprint = fingerprint then null
    when is_declared and there.declared_by >= began_ms then 'NEWER'
    when definition is null then 'NOT_FOUND'
    when there.fields ->> 'rule' <> definition ->> 'rule' and there.last_ms is distinct from last_ms then 'CHANGED'
  end;
end $$;

-- Withdraw the declarations of a scheduler that ends. If it was the last one of its release, notify the others.
create function redisjobs_f.withdraw_schedules(q text, given_ms bigint, scheduler text, its_release text)
  returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
begin
  delete from redisjobs.schedulers s where s.queue = q and s.release = its_release and s.id = scheduler;
  if not found then
    return redisjobs_f._answer('"NOT_FOUND"');
  end if;
  if not exists (select from redisjobs.schedulers s
    where s.queue = q and s.release = its_release and s.id <> '' and redisjobs_f._is_now(s.seen_ms, now_ms)) then
    delete from redisjobs.schedulers s where s.queue = q and s.release = its_release and s.id = '';
    perform redisjobs_f._tell('withdrawn', '');
  end if;
  return redisjobs_f._answer('"OK"');
end $$;

-- Pause a schedule, or let it fire again from now on. With a pause, `to_store` names the store that a mover takes
-- it to; '' for none.
create function redisjobs_f.pause_schedule(q text, given_ms bigint, of_name text, pause boolean, to_store text)
  returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  number bigint;
  was_paused boolean;
begin
  perform redisjobs_f._lock_schedules(q);
  select is_paused into was_paused from redisjobs.schedules s
    where s.queue = q and s.name = of_name and not s.removed for update;
  if not found then
    return redisjobs_f._answer('"NOT_FOUND"');
  end if;
  if was_paused <> pause then
    number := redisjobs_f._next_change(q, now_ms);
    update redisjobs.schedules s set is_paused = pause, change = number,
      moved_to = case when pause then to_store else '' end,
      last_ms = case when pause then s.last_ms else greatest(now_ms, s.last_ms) end
    where s.queue = q and s.name = of_name;
    perform redisjobs_f._note_change(q, number, now_ms);
  end if;
  return redisjobs_f._answer('"OK"');
end $$;

-- Remove a schedule, unless a running scheduler declares it. Its name stays for a day, so that schedulers learn of
-- the removal.
create function redisjobs_f.remove_schedule(q text, given_ms bigint, of_name text)
  returns text language plpgsql as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  number bigint;
  there redisjobs.schedules;
begin
  perform redisjobs_f._lock_schedules(q);
  select * into there from redisjobs.schedules s where s.queue = q and s.name = of_name
    and not s.removed for update;
  if not found then
    return redisjobs_f._answer('"NOT_FOUND"');
  end if;
  if redisjobs_f._is_declared(there, now_ms) then
    return redisjobs_f._answer('"DECLARED"');
  end if;
  number := redisjobs_f._next_change(q, now_ms);
  update redisjobs.schedules s set (removed, change, fields, fired_ms, fired_by, missed, is_paused,
    moved_to, declared_by,
      declared_ms) = (true, number, '{}', null, '', 0, false, '', null, null)
      where s.queue = q and s.name = of_name;
  perform redisjobs_f._note_change(q, number, now_ms);
  delete from redisjobs.schedules where ctid = any (array(
    select s.ctid from redisjobs.schedules s where s.queue = q and s.removed and s.change < now_ms - 86400000
    order by s.change limit 20 for update skip locked
  ));
  return redisjobs_f._answer('"OK"');
end $$;

-- List schedules in the order of their last changes, from the change after this number: up to 500, or about 1 MB.
--
-- The answer is {rows, gone, change, more, served, now}. rows: name, whether a running scheduler declares it,
-- fields. gone: names of removed schedules. change: the number of the last change of all. more: where the next
-- step begins.
create function redisjobs_f.list_schedules(q text, given_ms bigint, of_name text, after bigint) returns text
language plpgsql stable as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  answer jsonb := jsonb_build_object('now', redisjobs_f._clock(given_ms), 'change',
    redisjobs_f._last_change(q), 'served', exists (
    select from redisjobs.schedulers s where s.queue = q and s.id = ''
      and redisjobs_f._is_now(s.seen_ms, now_ms)));
begin
  with found as materialized (
    (select s from redisjobs.schedules s
      where of_name <> '' and s.queue = q and s.name = of_name and s.change > after and not s.removed)
    union all
    (select s from redisjobs.schedules s
      where of_name = '' and s.queue = q and s.change > 0 and s.change > after order by s.change limit 201)
  ), sized as (
    select s, row_number() over in_order as nth, sum(octet_length((s).fields::text)) over in_order as bytes
    from found window in_order as (order by (s).change)
  ), page as materialized (
    select s from sized where nth = 1 or nth <= 200 and bytes < 1048576
  )
  select answer || jsonb_build_object(
    'rows', jsonb_agg(jsonb_build_array((s).name, redisjobs_f._is_declared(s, now_ms),
      redisjobs_f._schedule_fields(s))
      order by (s).change) filter (where not (s).removed),
    'gone', jsonb_agg((s).name order by (s).change) filter (where (s).removed),
    'more', case when count(*) < (select count(*) from found) then max((s).change) end)
  into answer from page;
  return redisjobs_f._answer(answer);
end $$;

-- Return the fields of a schedule: its definition and its state.
create function redisjobs_f._schedule_fields(there redisjobs.schedules) returns jsonb language sql immutable as $$
  select there.fields || jsonb_strip_nulls(jsonb_build_object('fingerprint', there.fingerprint,
    'last_slot', there.last_ms::text,
    'paused', case when there.is_paused then '1' end, 'moved_to', nullif(there.moved_to, ''), 'missed',
    nullif(there.missed, 0)::text,
    'fired_slot', there.fired_ms::text, 'declared_by', there.declared_by::text,
    'release', case when there.declared_by is not null then there.release end))
$$;

-- Push the jobs of schedules, once for each slot. `firings` has for each firing the values of `Firing`; its jobs
-- are as for `push`. The answer is {fired, now}. fired has for each firing a word, the last slot, and the answers
-- of `push` for its jobs.
create function redisjobs_f.fire(q text, given_ms bigint, scheduler text, firings jsonb)
  returns text language plpgsql as $$
declare
  now_ms bigint;
  fired jsonb;
begin
  perform redisjobs_f._need_read_committed();
  perform redisjobs_f._lock_these(q, firings);
  perform pg_current_xact_id();  -- before any place in line is taken, as in `push`
  perform redisjobs_f._hurry();
  now_ms := redisjobs_f._now(given_ms);  -- after waiting for another scheduler
  begin
    fired := redisjobs_f._fire_each(q, scheduler, firings, false, now_ms);
  exception when lock_not_available then
    fired := redisjobs_f._fire_each(q, scheduler, firings, true, now_ms);
  end;
  return redisjobs_f._answer(jsonb_build_object('fired', fired, 'now', redisjobs_f._clock(given_ms)));
end $$;

-- Fire schedules that are locked. With `apart`, a schedule whose jobs must wait for another transaction does not
-- stop the others.
create function redisjobs_f._fire_each(q text, scheduler text, firings jsonb, apart boolean, now_ms bigint)
  returns jsonb language plpgsql as $$
declare
  firing record;
  fired jsonb := '[]';
  pushed jsonb;
  busy integer := 0;
begin
  for firing in
    select asked.*, there.last_ms as there_ms, case
      when there.fingerprint is distinct from asked.fingerprint then 'CHANGED'
      when there.is_paused then 'PAUSED'
      when there.last_ms = asked.slot_ms and there.fired_by = scheduler then 'REPEATED'
      when there.last_ms <> asked.last_ms or asked.slot_ms <= there.last_ms then 'FIRED'
      when asked.slot_ms > now_ms then 'EARLY' else 'OK' end as word
    from jsonb_array_elements(firings) with ordinality as each (item, at), jsonb_to_record(item)
      as asked (name text, fingerprint text, last_ms bigint, slot_ms bigint, missed bigint, jobs jsonb),
      redisjobs_f._schedule(q, asked.name) there
    order by at
  loop
    pushed := null;
    if firing.word = 'OK' then
      pushed := case when apart then redisjobs_f._try_slots(q, firing.jobs, now_ms)
        else redisjobs_f._push_slots(q, firing.jobs, now_ms) end;
      if pushed is null then
        firing.word := 'BUSY';
        busy := busy + 1;
      else
        update redisjobs.schedules s set last_ms = firing.slot_ms, fired_ms = firing.slot_ms, fired_by = scheduler,
          missed = s.missed + firing.missed where s.queue = q and s.name = firing.name;
      end if;
    end if;
    fired := fired || jsonb_build_array(jsonb_build_array(firing.word, firing.there_ms, pushed));
    exit when busy = 8;  -- each has waited; the client sends the rest again
  end loop;
  return fired;
end $$;

-- Do the same as `_push_slots`. Return null if that would have to wait for another transaction.
create function redisjobs_f._try_slots(q text, jobs jsonb, now_ms bigint) returns jsonb language plpgsql as $$
begin
  return redisjobs_f._push_slots(q, jobs, now_ms);
exception when lock_not_available then
  return null;
end $$;

-- Push jobs unless the queue has their ids, even as ended jobs that are kept. Return the answer of `push` for
-- each.
create function redisjobs_f._push_slots(q text, jobs jsonb, now_ms bigint) returns jsonb language plpgsql as $$
declare
  job jsonb;
  word text;
  holder text;
  answers jsonb := '[]';
begin
  for job in select value from jsonb_array_elements(jobs) loop
    word := 'EXISTS';
    holder := '';
    if redisjobs_f._seq_of(q, job ->> 'id') is null then
      select a.word, a.holder into word, holder from redisjobs_f._add(q, job, now_ms) a;
    end if;
    answers := answers || jsonb_build_array(jsonb_build_array(word, holder));
  end loop;
  return answers;
end $$;
