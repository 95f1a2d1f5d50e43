-- Procedures for the functions that write. A statement of a function commits after its answer was sent. A client
-- that stops reading would keep all locks of its transaction, so one frozen worker would stop its queue. Therefore
-- each function that writes has a procedure with its name and arguments, which commits first. The procedure
-- returns the answer in its last arguments: `meta`, and for a function that returns rows also the rows, as a JSON
-- array of arrays. A push within a transaction of the user calls the function.
--
-- A procedure that commits can't be `security definer`, nor have settings. But it can begin a transaction with the
-- isolation that we need, whatever the session's default is.
do $$
declare
  one record;
begin
  for one in
    select p.proname, pg_get_function_identity_arguments(p.oid) as arguments,
      (select string_agg('$' || at, ', ') from generate_series(1, p.pronargs) at) as given,
      (select string_agg(format('x.%I', p.proargnames[at]), ', ' order by at)
        from generate_subscripts(p.proargmodes, 1) at where p.proargmodes[at] = 't') as columns
    from pg_proc p where p.pronamespace = 'redisjobs'::regnamespace and p.provolatile = 'v'
      and p.proname ~ ('^[a-z]\w*' || right('redisjobs_f._', 11) || '$') and p.proname !~ '^push_within_'
  loop
    execute format('create procedure redisjobs.%I(%s, inout given_meta text%s) language plpgsql as %L',
      one.proname, one.arguments,
      case when one.columns is not null then ', inout given_rows text' else '' end, format($body$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    rollback;
    set transaction isolation level read committed;
  end if;
  %s
  commit;
end $body$, case when one.columns is null then format('given_meta := redisjobs.%I(%s);', one.proname, one.given)
      else format('select max(x.meta), json_agg(json_build_array(%s)) filter (where x.meta is null) '
        'into given_meta, given_rows '
        'from redisjobs.%I(%s) x;', one.columns, one.proname, one.given) end));
  end loop;
end $$;
