-- Facts about the server: its settings, and the transactions that keep dead rows from being removed.

-- Describe sessions, prepared transactions and replication slots that are older than `older_ms` and keep dead
-- rows, by a snapshot or because they have written. Return [kind, name, seconds, state, transactions since], the
-- oldest first. A role that may not see when a session's transaction started (null) sees the number of
-- transactions since.
create function redisjobs_f._pins(older_ms bigint) returns jsonb language sql stable as $$
  select coalesce(jsonb_agg(jsonb_build_array(kind, name, seconds, state, transactions)
    order by transactions desc), '[]')
  from (
    select 'session' as kind, concat_ws(' ', 'pid', pid, nullif(application_name, ''), 'of', usename) as name,
      floor(extract(epoch from clock_timestamp() - xact_start))::bigint as seconds,
      coalesce(state, backend_type) as state,
      greatest(age(backend_xmin), age(backend_xid)) as transactions
    from pg_stat_activity where coalesce(backend_xmin, backend_xid) is not null and pid <> pg_backend_pid()
      and (datname = current_database() or datname is null)
      -- A role that may not see a session's type sees that it has a user; autovacuum has none.
      and coalesce(backend_type in ('client backend', 'walsender'), usesysid is not null)
      and (clock_timestamp() - xact_start > older_ms * interval '1 ms'
        or (xact_start is null and greatest(age(backend_xmin), age(backend_xid)) > 100000))
    union all
    select 'prepared transaction', gid, floor(extract(epoch from clock_timestamp() - prepared))::bigint, '',
      age(transaction)
    from pg_prepared_xacts where database = current_database()
      and clock_timestamp() - prepared > older_ms * interval '1 ms'
    union all
    select 'replication slot', slot_name::text, null, case when active then 'active' else 'inactive' end, age(xmin)
    from pg_replication_slots where xmin is not null and age(xmin) > 100000
    order by 5 desc limit 10
  ) pin
$$;

-- Describe the tables of rings that were not emptied for long: [name, bytes, seconds].
create function redisjobs_f._full_rings(now_ms bigint) returns jsonb language sql stable as $$
  select coalesce(jsonb_agg(jsonb_build_array(name, bytes, (now_ms - first_ms) / 1000) order by name), '[]') from (
    select 'ledger_0' as name, (select min(until_ms + 0) from redisjobs.ledger_0) as first_ms,
      pg_table_size('redisjobs.ledger_0') as bytes
    union all select 'ledger_1', (select min(until_ms + 0) from redisjobs.ledger_1),
      pg_table_size('redisjobs.ledger_1')
    union all select 'ledger_2', (select min(until_ms + 0) from redisjobs.ledger_2),
      pg_table_size('redisjobs.ledger_2')
    union all select 'turns_0', (select min(at_ms) from redisjobs.turns_0), pg_table_size('redisjobs.turns_0')
    union all select 'turns_1', (select min(at_ms) from redisjobs.turns_1), pg_table_size('redisjobs.turns_1')
    union all select 'turns_2', (select min(at_ms) from redisjobs.turns_2), pg_table_size('redisjobs.turns_2')
  ) ring where first_ms < now_ms - 900000 and bytes > 16777216
$$;

-- Describe the server: snapshots that are older than `older_ms`, and functions that the user may not run.
-- `release` is the suffix of these functions' names.
create function redisjobs_f.look_at_server(q text, given_ms bigint, release text, older_ms bigint)
  returns text language plpgsql stable as $$
declare
  facts jsonb;
begin
  select jsonb_object_agg(name, setting) into facts from pg_settings
  where name in ('fsync', 'full_page_writes', 'autovacuum', 'track_counts', 'server_version', 'server_encoding');
  return redisjobs_f._answer(facts || jsonb_build_object(
    'now', extract(epoch from clock_timestamp()) * 1000, 'pid', pg_backend_pid(), 'database', current_database(),
    'synchronous_commit', current_setting('synchronous_commit'),
    'replica', pg_is_in_recovery(),
    'replicas', (select count(*) from pg_stat_replication),
    'blind', case when not pg_has_role(current_user, 'pg_read_all_stats', 'usage') then current_user end,
    'superuser', (select rolname from pg_roles where rolname = current_user and rolsuper),
    'sessions', (select count(*) from pg_stat_activity where backend_type = 'client backend'),
    'max_sessions', current_setting('max_connections')::integer,
    'frozen', (select age(datfrozenxid) from pg_database where datname = current_database()),
    'unvacuumed', (select coalesce(jsonb_agg(relname order by relname), '[]') from pg_class
      where relnamespace = 'redisjobs'::regnamespace and relkind = 'r' and relname !~ '^(ledger|turns)_'
        and reloptions && array['autovacuum_enabled=false', 'autovacuum_enabled=off']),
    'jobs', (select jsonb_build_array(n_live_tup, n_dead_tup, pg_total_relation_size(relid))
      from pg_stat_user_tables
      where schemaname = 'redisjobs' and relname = 'jobs'),
    'slots', (select coalesce(jsonb_agg(jsonb_build_array(slot_name, pg_wal_lsn_diff(
        case when not pg_is_in_recovery() then pg_current_wal_lsn() end, restart_lsn)) order by slot_name), '[]')
      from pg_replication_slots where not active),
    'pins', redisjobs_f._pins(older_ms),
    'rings', redisjobs_f._full_rings(redisjobs_f._now(given_ms)),
    'refused', (select coalesce(jsonb_agg(left(proname, -length(release) - 1) order by proname), '[]') from pg_proc
      where pronamespace = 'redisjobs'::regnamespace and right(proname, length(release) + 1) = '_' || release
        and left(proname, 1) <> '_' and prokind = 'f'
          and not has_function_privilege(session_user, oid, 'execute'))));
end $$;

-- Let tables without a key be published. Postgres then logs their old rows whole, which is too expensive for users
-- who publish none. Before, a publication of all tables of a database made it impossible to delete jobs. A table
-- that is locked now follows at the next tidying.
create function redisjobs_f._identify() returns void language plpgsql set lock_timeout = '100ms' as $$
declare
  one regclass;
begin
  for one in
    select c.oid from pg_class c
    where c.relnamespace = 'redisjobs'::regnamespace and c.relkind = 'r' and c.relreplident = 'd'
      and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
      and exists (select from pg_publication p where p.puballtables
        or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid)
        or exists (select from pg_publication_namespace n where n.pnpubid = p.oid and n.pnnspid = c.relnamespace))
  loop
    execute format('alter table %s replica identity full', one);
  end loop;
exception when lock_not_available then
end $$;

do $$ begin
  perform redisjobs_f._identify();
end $$;
