-- Pushes in a transaction of the caller's.

-- What tells this database from others, also from those that were copied from it.
create function redisjobs_f._identity() returns text language sql as $$
  select id || ' ' || (select oid from pg_database where datname = current_database())
  from redisjobs.outbox_identity
$$;

create function redisjobs_f.identity(q text, given_ms bigint) returns text language plpgsql as $$
begin
  return redisjobs_f._answer(to_jsonb(redisjobs_f._identity()));
end $$;

-- Push jobs. Answers as `push`; 'ELSEWHERE' if the queue is in another database than this one. It notifies no one:
-- all commits that notify wait for each other, until each is on the disk. The client does, once the transaction
-- has ended.
create function redisjobs_f.push_within(q text, given_ms bigint, database text, jobs jsonb)
  returns text language plpgsql as $$
begin
  if database <> redisjobs_f._identity() then
    return redisjobs_f._answer('"ELSEWHERE"');
  end if;
  return redisjobs_f.push(q, given_ms, jobs, false);
end $$;
