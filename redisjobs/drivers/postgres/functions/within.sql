-- Pushes within a transaction of the caller.

-- Return an identity of this database. It differs from other databases, even from copies of this one.
create function redisjobs_f._identity() returns text language sql as $$
  select id || ' ' || (select oid from pg_database where datname = current_database())
  from redisjobs.outbox_identity
$$;

create function redisjobs_f.identity(q text, given_ms bigint) returns text language plpgsql as $$
begin
  return redisjobs_f._answer(to_jsonb(redisjobs_f._identity()));
end $$;

-- Push jobs. The answers are those of `push`, or 'ELSEWHERE' if the queue is in another database. This sends no
-- notification, because all commits that notify wait for each other until each is on disk. The client notifies
-- once the transaction has ended.
create function redisjobs_f.push_within(q text, given_ms bigint, database text, jobs jsonb)
  returns text language plpgsql as $$
begin
  if database <> redisjobs_f._identity() then
    return redisjobs_f._answer('"ELSEWHERE"');
  end if;
  return redisjobs_f.push(q, given_ms, jobs, false);
end $$;
