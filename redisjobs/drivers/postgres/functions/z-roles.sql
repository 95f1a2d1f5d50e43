-- The functions that each role may call. This file is the last one, because it grants functions that the other
-- files define. `redisjobs.allow`, which the migration 0003 defines, stores the roles.

-- The parts of the work that need each function. An error for a role that misses a function names the first part.
create function redisjobs_f._parts() returns table (function text, parts text) language sql immutable as $$
  values
    ('push', 'producer worker'),
    ('push_plain', 'producer worker'),
    ('push_within', 'producer worker'),
    ('identity', 'producer worker'),
    ('status', 'producer worker reader operator'),
    ('await', 'producer worker operator'),
    ('find', 'producer worker reader operator'),
    ('steps', 'worker reader operator'),
    ('signal', 'producer worker operator'),
    ('find_children', 'worker reader operator'),
    ('cancel_children', 'worker operator'),
    ('chunks', 'producer worker reader operator'),
    ('ahead', 'reader operator'),
    ('audit', 'reader operator'),
    ('audited', 'reader operator'),
    ('repair', 'operator'),
    ('look_at_server', 'reader worker operator'),
    ('backlog', 'reader worker operator'),
    ('count', 'reader worker operator'),
    ('find_intervals', 'reader operator'),
    ('find_limits', 'reader worker operator'),
    ('find_pauses', 'reader worker operator'),
    ('find_workers', 'reader worker operator'),
    ('group_dead', 'reader operator'),
    ('list_schedules', 'reader worker operator'),
    ('scan', 'reader operator'),
    ('find_retention', 'reader operator'),
    ('find_taken', 'reader operator'),
    ('forget_taken', 'operator'),
    ('import_jobs', 'operator'),
    ('take', 'operator'),
    ('ask_worker', 'operator'),
    ('change', 'operator'),
    ('change_many', 'operator'),
    ('delete_all', 'operator'),
    ('hold', 'operator'),
    ('unhold', 'operator'),
    ('pause', 'operator'),
    ('resume', 'operator'),
    ('pause_schedule', 'operator'),
    ('remove_schedule', 'operator'),
    ('requeue_all', 'operator'),
    ('put_schedules', 'operator worker'),
    ('set_limit', 'operator worker'),
    ('retain', 'operator worker'),
    ('tidy', 'worker operator'),
    ('unpark', 'worker operator'),
    ('beat', 'worker'),
    ('cancelled', 'worker'),
    ('declare', 'worker operator'),
    ('exchange', 'worker'),
    ('fire', 'worker'),
    ('join', 'worker'),
    ('read', 'worker'),
    ('reclaim', 'worker'),
    ('record', 'worker'),
    ('recover', 'worker'),
    ('release', 'worker'),
    ('withdraw_schedules', 'worker')
$$;

-- Grant a role the functions of this release that a part of the work needs.
create function redisjobs_f._grant(role name, part text) returns void language plpgsql
  set search_path = pg_catalog, pg_temp as $$
declare
  suffix constant text := right('redisjobs_f._', 11);  -- the suffix of this release's names
  one regprocedure;
begin
  for one in
    select p.oid from pg_proc p join redisjobs_f._parts() on p.proname = function || suffix
    where p.pronamespace = 'redisjobs'::regnamespace and part = any (string_to_array(parts, ' '))
  loop
    execute format('grant execute on routine %s to %I', one, role);
  end loop;
  if part = 'reader' then
    execute format('grant select on all tables in schema redisjobs to %I', role);
  elsif part = 'outbox' then
    execute format('grant insert on redisjobs.outbox to %I', role);
  elsif part = 'relay' then
    execute format('grant select, update, delete on redisjobs.outbox to %I', role);
    execute format('grant select on redisjobs.outbox_identity, redisjobs.migrations to %I', role);
  end if;
end $$;

-- By default, everyone may call a new function.
do $$
declare
  one regprocedure;
  given record;
begin
  for one in
    select oid from pg_proc
    where pronamespace = 'redisjobs'::regnamespace and right(proname, 11) = right('redisjobs_f._', 11)
  loop
    execute format('revoke execute on routine %s from public', one);
  end loop;
  for given in select r.role, r.part from redisjobs.roles r join pg_roles on rolname = r.role loop
    perform redisjobs_f._grant(given.role, given.part);
  end loop;
end $$;
