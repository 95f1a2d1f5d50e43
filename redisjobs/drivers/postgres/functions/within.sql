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
  told text;
begin
  if database <> redisjobs_f._identity() then
    return redisjobs_f._answer('"ELSEWHERE"');
  end if;
  answer := redisjobs_f.push(q, given_ms, jobs, false)::jsonb;
  select string_agg(distinct line, E'\n') into told from string_to_table(answer->>'t', E'\n') line where line <> '';
  if told is not null then  -- all in one; those who listen look at all if that is too long
    perform pg_notify('redisjobs_' || md5(q), case when octet_length(told) < 7900 then told else E'\tsubscribed\t' end);
  end if;
  return answer::text;
end $$;
