-- Unique keys. A key is a row of `uniques`. Its primary key lets one call at a time take it: calls for the same
-- key wait until that transaction ends, and other calls don't wait. A key that is held until its job ends is free
-- once that job is gone, even if the row is still there. A job that ends does not wait for a locked row; tidying
-- deletes that row later.

-- Return whether the job that holds a key until its end is gone, has failed, or no longer has this key. The
-- function is volatile, so it sees the last commit, even in a statement that has waited for the row.
create function redisjobs_f._is_left(held redisjobs.uniques) returns boolean language plpgsql volatile as $$
begin
  return held.until_ms is null and not exists (select from redisjobs.jobs j
    where j.queue = held.queue and j.id = held.id and j.place not in ('completed', 'cancelled')
      and j.place is distinct from 'dead' and j.unique_key is not distinct from held.key);
end $$;

-- Return whether a key is free: its time is over, its job is gone, or its job has begun and holds it only until
-- its start. `parent` is a job that ends now.
create function redisjobs_f._is_free(held redisjobs.uniques, now_ms bigint, parent text default '') returns boolean
language plpgsql volatile as $$
begin
  if held.until_ms is not null then
    return held.until_ms <= now_ms;
  end if;
  return held.id = parent or redisjobs_f._is_left(held) or exists (select from redisjobs.jobs j
    where j.queue = held.queue and j.id = held.id and j.place not in ('completed', 'cancelled')
      and j.extra->>'unique_until' = 'start' and (j.place in ('running', 'suspended') or j.extra ? 'steps'));
end $$;

-- Return the id of the job that holds a unique key; '' if no job does.
create function redisjobs_f._holder(q text, wanted text, now_ms bigint, parent text default '') returns text
language plpgsql as $$
declare
  held redisjobs.uniques;
begin
  if coalesce(wanted, '') = '' then
    return '';
  end if;
  select * into held from redisjobs.uniques u where u.queue = q and u.key = wanted;
  return case when held.id is null or redisjobs_f._is_free(held, now_ms, parent) then '' else held.id end;
end $$;

-- Take a key for a job if it is free. Otherwise return the id of the job that holds it.
create function redisjobs_f._take_key(q text, wanted text, taker text, until_ms bigint, now_ms bigint,
  parent text default '') returns text language plpgsql as $$
declare
  holder text := redisjobs_f._holder(q, wanted, now_ms, parent);
begin
  if holder <> '' or coalesce(wanted, '') = '' then
    return holder;
  end if;
  insert into redisjobs.uniques as u values (q, wanted, taker, until_ms)
  on conflict (queue, key) do update set id = excluded.id, until_ms = excluded.until_ms
    where redisjobs_f._is_free(u, now_ms, parent);
  return case when found then '' else redisjobs_f._holder(q, wanted, now_ms, parent) end;
end $$;

-- Free the keys of jobs that have ended. Skip keys that another call has locked.
create function redisjobs_f._free_keys(q text, keys text[], holders text[]) returns void language plpgsql as $$
begin
  delete from redisjobs.uniques where ctid = any (array(
    select u.ctid from redisjobs.uniques u
    where u.queue = q and u.key = any (keys) and u.id = any (holders) and u.until_ms is null
      for update skip locked));
end $$;

-- Check the next 1,000 keys, and delete the rows whose jobs are gone. The next call continues after the last key.
create function redisjobs_f._clear_keys(q text, now_ms bigint) returns void language plpgsql as $$
declare
  first constant text := coalesce((select s.value from redisjobs.settings s
    where s.queue = q and s.name = 'keys'), '');
  looked constant text[] := array(
    select u.key from redisjobs.uniques u where u.queue = q and u.key > first order by u.key limit 1000);
begin
  delete from redisjobs.uniques u where u.ctid = any (array(
    select each.ctid from redisjobs.uniques each
    where each.queue = q and each.key = any (looked) and redisjobs_f._is_left(each) for update skip locked))
    and redisjobs_f._is_left(u);
  if looked = '{}' and first = '' then
    return;
  end if;
  insert into redisjobs.settings values (q, 'keys', case when cardinality(looked) = 1000
    then looked[1000] else '' end, now_ms)
    on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;
end $$;
