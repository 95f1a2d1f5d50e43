-- Pushes in a transaction of the caller's.

-- What tells this database from others, also from those that were copied from it.
create function redisjobs_f._identity() returns text language sql as $$
  select id || ' ' || (select oid from pg_database where datname = current_database()) from redisjobs.outbox_identity
$$;

create function redisjobs_f.identity(q text, given_ms bigint) returns text language plpgsql as $$
begin
  return redisjobs_f._answer(to_jsonb(redisjobs_f._identity()));
end $$;

-- Push jobs, and notify workers once the transaction commits. Answers as `push`; 'ELSEWHERE' if the queue is in another
-- database than this one.
create function redisjobs_f.push_within(q text, given_ms bigint, database text, jobs jsonb) returns text language plpgsql as $$
declare
  answer jsonb;
begin
  if database <> redisjobs_f._identity() then
    return redisjobs_f._answer('"ELSEWHERE"');
  end if;
  answer := redisjobs_f.push(q, given_ms, jobs, false)::jsonb;
  if answer->>'t' <> '' then
    perform pg_notify('redisjobs_' || md5(q), E'\tready\t');
  end if;
  return answer::text;
end $$;
