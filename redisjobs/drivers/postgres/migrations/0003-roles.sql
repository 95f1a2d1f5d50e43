-- The parts of the work that each role of the database may do. A release that is installed later gives its
-- functions to these roles too.
create table redisjobs.roles (role name not null, part text collate "C" not null, primary key (role, part));

-- Let a role do a part of the work: see docs/how-to/restrict-access.md. It is safe to run it again.
create function redisjobs.allow(role name, part text) returns void language plpgsql
  set search_path = pg_catalog, pg_temp as $$
declare
  parts constant text[] := array['producer', 'worker', 'operator', 'reader', 'outbox', 'relay'];
  granting name;
begin
  if part <> all (parts) then
    raise exception 'there is no part %', part using errcode = 'invalid_parameter_value',
      hint = 'The parts are ' || array_to_string(parts, ', ') || '.';
  end if;
  execute format('grant usage on schema redisjobs to %I', role);
  insert into redisjobs.roles values (role, part) on conflict do nothing;
  for granting in
    select proname from pg_proc where pronamespace = 'redisjobs'::regnamespace
      and proname ~ '^_grant_[0-9a-f]{10}$'
  loop
    execute format('select redisjobs.%I($1, $2)', granting) using role, part;
  end loop;
end $$;

-- Take all rights on the schema from a role.
create function redisjobs.forbid(role name) returns void language plpgsql
  set search_path = pg_catalog, pg_temp as $$
begin
  execute format('revoke all on all routines in schema redisjobs from %I', role);
  execute format('revoke all on all tables in schema redisjobs from %I', role);
  execute format('revoke all on schema redisjobs from %I', role);
  delete from redisjobs.roles r where r.role = forbid.role;
end $$;

revoke execute on function redisjobs.allow(name, text), redisjobs.forbid(name) from public;
