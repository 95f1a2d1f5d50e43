-- Unique keys. A key is a row of `uniques`, whose primary key lets one call at a time take it: others that want the same key wait
-- for the end of that transaction, and no other calls do. A key that is held until its job ends is free once that job is gone,
-- even if its row is still there: a job that ends does not wait for a row that is locked, and tidying deletes it later.

-- Whether the job that holds a key until it ends is gone, or has failed, or has not this key any more. This sees what was
-- committed last, also when it is asked in a statement that has waited for the row: it is volatile.
create function redisjobs_f._is_left(held redisjobs.uniques) returns boolean language plpgsql volatile as $$
begin
  return held.until_ms is null and not exists (select from redisjobs.jobs j
    where j.queue = held.queue and j.id = held.id and j.place not in ('completed', 'cancelled')
      and j.place is distinct from 'dead' and j.unique_key is not distinct from held.key);
end $$;

-- Whether a key is free: its time is over, or it is left, or its job has begun and holds it only until its start. `parent` is a
-- job that ends now.
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

-- Take a key for a job, if it is free; return the id of the job that holds it otherwise.
create function redisjobs_f._take_key(q text, wanted text, taker text, until_ms bigint, now_ms bigint, parent text default '')
  returns text language plpgsql as $$
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

-- Free the keys of jobs that have ended, except those that another call has locked.
create function redisjobs_f._free_keys(q text, keys text[], holders text[]) returns void language plpgsql as $$
begin
  delete from redisjobs.uniques where ctid = any (array(
    select u.ctid from redisjobs.uniques u
    where u.queue = q and u.key = any (keys) and u.id = any (holders) and u.until_ms is null for update skip locked));
end $$;

-- Delete those of the next 1,000 keys whose jobs are gone; the next call goes on where this one ended.
create function redisjobs_f._clear_keys(q text, now_ms bigint) returns void language plpgsql as $$
declare
  first constant text := coalesce((select s.value from redisjobs.settings s where s.queue = q and s.name = 'keys'), '');
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
  insert into redisjobs.settings values (q, 'keys', case when cardinality(looked) = 1000 then looked[1000] else '' end, now_ms)
    on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;
end $$;
