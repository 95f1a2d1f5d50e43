-- Rings of three tables: remembered pushes, and the last turns of workers. Rows are inserted and never changed, so
-- a snapshot that is held for long leaves no dead rows here. Once all rows of the next table are out of date,
-- TRUNCATE empties it.

-- Remember a value until a time. `what` is `ended`, `refused` or `answer`; `key` is a push (its job's id, a space,
-- its nonce). The end of its time selects the table, so the rows of one table end within the same 90 seconds.
create function redisjobs_f._remember(q text, what text, key text, value text, until_ms bigint) returns void
language plpgsql as $$
declare
  ring integer := until_ms / 90000 % 3;
  entry text := what || ' ' || key;
begin
  if ring = 0 then
    insert into redisjobs.ledger_0 values (q, entry, value, until_ms);
  elsif ring = 1 then
    insert into redisjobs.ledger_1 values (q, entry, value, until_ms);
  else
    insert into redisjobs.ledger_2 values (q, entry, value, until_ms);
  end if;
end $$;

-- Return the remembered value. Null: nothing is remembered.
create function redisjobs_f._remembered(q text, what text, key text, now_ms bigint) returns text
language plpgsql as $$
declare
  entry text := what || ' ' || key;
begin
  return (
    select l.value from redisjobs.ledger l where l.queue = q and l.key = entry
      and l.until_ms > now_ms order by l.until_ms desc limit 1
  );
end $$;

-- Note the answer to a worker's turn. The time selects the table: each is used for 180 seconds.
create function redisjobs_f._note_turn(q text, worker text, lane integer, number bigint, answer text,
  now_ms bigint) returns void language plpgsql as $$
declare
  ring integer := now_ms / 180000 % 3;
begin
  if ring = 0 then
    insert into redisjobs.turns_0 values (q, worker, lane, number, answer, now_ms);
  elsif ring = 1 then
    insert into redisjobs.turns_1 values (q, worker, lane, number, answer, now_ms);
  else
    insert into redisjobs.turns_2 values (q, worker, lane, number, answer, now_ms);
  end if;
end $$;

-- Wait until an earlier try of a worker's turn has ended.
create function redisjobs_f._lock_lane(q text, worker text, lane integer) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended(concat_ws(' ', 'redisjobs lane', q, worker, lane), 0));
end $$;

-- Return the number of the last turn of a worker's lane, and its answer. 0 and null: no turn is known.
create function redisjobs_f._last_turn(q text, of_worker text, of_lane integer, out number bigint, out answer text)
language plpgsql as $$
begin
  select t.number, t.answer into number, answer from redisjobs.turns t
    where t.queue = q and t.worker = of_worker and t.lane = of_lane order by t.number desc limit 1;
  number := coalesce(number, 0);
end $$;

-- Empty the tables that come next. Only one transaction does this at a time. It costs two short reads if there is
-- nothing to do. If a table was not free, the next try comes 30 seconds later. Call this last, because the
-- transaction then holds these tables exclusively.
create function redisjobs_f._rotate(given_ms bigint) returns void language plpgsql as $$
declare
  -- Tests set the clock of one queue, but not of the others.
  now_ms bigint := least(redisjobs_f._now(null), given_ms);
  ledger text := 'ledger_' || ((now_ms + 60000) / 90000 + 1) % 3;
  turns text := 'turns_' || (now_ms / 180000 + 1) % 3;
  used text[] := redisjobs_f._used(array[ledger, turns]);
begin
  if used = '{}' or not pg_try_advisory_xact_lock(hashtextextended('redisjobs rings', 0)) then
    return;
  end if;
  if exists (select from redisjobs.settings s where s.queue = '' and s.name = 'rotated'
      and now_ms between s.at_ms and s.at_ms + 29999) then
    return;
  end if;
  insert into redisjobs.settings values ('', 'rotated', '', now_ms)
    on conflict (queue, name) do update set at_ms = excluded.at_ms;
  if ledger = any (used) then
    perform redisjobs_f._empty(ledger, 'until_ms + 0', now_ms);
  end if;
  if turns = any (used) then
    perform redisjobs_f._empty(turns, 'at_ms', now_ms - 180000);
  end if;
end $$;

-- Return which of these tables have rows.
create function redisjobs_f._used(tables text[]) returns text[] language plpgsql as $$
declare
  each text;
  has_rows boolean;
  used text[] := '{}';
begin
  foreach each in array tables loop
    execute format('select exists (select from redisjobs.%I)', each) into has_rows;
    if has_rows then
      used := used || each;
    end if;
  end loop;
  return used;
end $$;

-- Empty a table if none of its rows counts after a time, and if it is free at once. A row of more than a day later
-- comes from a clock that was set back since.
create function redisjobs_f._empty(ring text, of_row text, after_ms bigint) returns boolean
language plpgsql set lock_timeout = '50ms' as $$
declare
  counts boolean;
begin
  execute format('lock table redisjobs.%I in access exclusive mode', ring);
  execute format('select exists (select from redisjobs.%1$I where %2$s > $1 and %2$s < $1 + 86400000)', ring,
    of_row)
    into counts using after_ms;
  if not counts then
    execute format('truncate redisjobs.%I', ring);
  end if;
  return not counts;
exception when lock_not_available or deadlock_detected then
  return false;
end $$;
