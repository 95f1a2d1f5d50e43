-- Helpers of all other functions: the clock, locks, notifications, counters, histories.
--
-- Functions that are called often are PL/pgSQL, which keeps its plans. Postgres plans a function in SQL at each
-- call.

create function redisjobs_f._now(given bigint) returns bigint language plpgsql as $$
begin
  return coalesce(given, floor(extract(epoch from clock_timestamp()) * 1000)::bigint);
end $$;

-- Return the time with its fraction, for the client's estimate of the clock.
create function redisjobs_f._clock(given bigint) returns double precision language plpgsql as $$
begin
  return coalesce(given, extract(epoch from clock_timestamp()) * 1000);
end $$;

-- Take the lock that exchanges of a queue share with each other.
create function redisjobs_f._share(q text) returns void language plpgsql as $$
begin
  perform redisjobs_f._need_read_committed();
  perform pg_advisory_xact_lock_shared(hashtextextended('redisjobs queue ' || q, 0));
  perform redisjobs_f._hurry();
end $$;

-- Take the lock that excludes exchanges, and all other calls that take it. Exchanges that begin meanwhile queue
-- behind this wait, so it fails after `most`; 0: it never fails.
create function redisjobs_f._lock(q text, most text default '1s') returns void language plpgsql as $$
begin
  perform redisjobs_f._need_read_committed();
  perform set_config('lock_timeout', most, true);
  perform pg_advisory_xact_lock(hashtextextended('redisjobs queue ' || q, 0));
  perform redisjobs_f._hurry();
end $$;

-- Try to take the same lock, for work that can be done later. False: the lock was not free.
create function redisjobs_f._try_lock(q text) returns boolean language plpgsql as $$
begin
  perform redisjobs_f._lock(q, '100ms');
  return true;
exception when lock_not_available then
  return false;
end $$;

-- Run beside exchanges. A queue with limits allows no exchanges beside this call, because there all changes to the
-- running jobs happen one by one.
create function redisjobs_f._join_in(q text) returns void language plpgsql as $$
begin
  if exists (select from redisjobs.rules where queue = q and kind = 'limit') then
    perform redisjobs_f._lock(q, '0');
    return;
  end if;
  perform redisjobs_f._share(q);
  if exists (select from redisjobs.rules where queue = q and kind = 'limit') then
    -- The client repeats the call.
    raise exception 'limits were set at this moment' using errcode = 'serialization_failure';
  end if;
end $$;

-- Return the lock that the exchanges of a worker share. The call that ends the worker holds it alone.
create function redisjobs_f._worker_lock(q text, worker_id text) returns bigint language plpgsql immutable as $$
begin
  return hashtextextended(concat_ws(' ', 'redisjobs worker', q, worker_id), 0);
end $$;

-- Limit the wait for any lock, because other calls wait for the locks of this transaction. If a wait is cut off,
-- the client repeats the call.
create function redisjobs_f._hurry(most text default '250ms') returns void language plpgsql as $$
begin
  perform set_config('lock_timeout', most, true);
end $$;

-- Refuse a transaction that would not see commits made while it waited for a lock. Procedures never begin such a
-- transaction; see z-calls.sql.
create function redisjobs_f._need_read_committed() returns void language plpgsql as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a transaction of redisjobs was begun as %, and must be read committed; nothing was written',
      current_setting('transaction_isolation') using errcode = '25004';
  end if;
end $$;

-- Note a notification for the client to send: a kind and a value, for all listeners of the queue or for one
-- process. A line feed is stored as a private character, as in notices.py.
create function redisjobs_f._tell(kind text, value text, process text default '')
  returns void language plpgsql as $$
begin
  perform set_config('redisjobs.told', concat_ws(E'\n', nullif(current_setting('redisjobs.told', true), ''),
    replace(process || E'\t' || kind || E'\t' || value, E'\n', E'\U0010F00A')), true);
end $$;

-- Return the notifications noted in this transaction, a line each: process, kind and value, separated by tabs.
create function redisjobs_f._told() returns text language plpgsql as $$
declare
  told text := coalesce(current_setting('redisjobs.told', true), '');
begin
  if told <> '' then
    perform set_config('redisjobs.told', '', true);
  end if;
  return told;
end $$;

-- Return the answer of a call as the client reads it.
create function redisjobs_f._answer(answer jsonb) returns text language plpgsql as $$
begin
  return jsonb_build_object('a', answer, 't', redisjobs_f._told())::text;
end $$;

create function redisjobs_f._count(q text, counter text, number bigint default 1) returns void
  language plpgsql as $$
begin
  if number <> 0 then
    insert into redisjobs.deltas (queue, name, n) values (q, counter, number);
  end if;
end $$;

-- Change fields. The value '' removes a field.
create function redisjobs_f._with(fields jsonb, changes jsonb) returns jsonb language sql immutable as $$
  select nullif(coalesce(jsonb_object_agg(key, value) filter (where value <> '""'), '{}'), '{}')
  from jsonb_each(coalesce(fields, '{}') || changes)
$$;

-- Return a line of a history.
create function redisjobs_f._event(now_ms bigint, what text, worker text default '', attempt text default '',
  note text default '') returns text language sql immutable as $$
  select concat_ws(' ', now_ms, what, coalesce(nullif(regexp_replace(worker, '[ \t-\r]', '_', 'g'), ''), '-'),
    coalesce(nullif(attempt, ''), '-'), regexp_replace(left(note, 1000), '[ \t-\r]+', ' ', 'g'))
$$;

-- Return a history with one more line. If it gets long, only the first line and the newest ones stay.
create function redisjobs_f._add_line(lines text, line text) returns text language plpgsql immutable as $$
declare
  all_lines text[] := case when coalesce(lines, '') = '' then '{}' else string_to_array(lines, E'\n') end || line;
begin
  while cardinality(all_lines) > 2
    and (cardinality(all_lines) > 20 or octet_length(array_to_string(all_lines, E'\n')) > 4096) loop
    all_lines := all_lines[1:1] || all_lines[3:];
  end loop;
  return array_to_string(all_lines, E'\n');
end $$;
