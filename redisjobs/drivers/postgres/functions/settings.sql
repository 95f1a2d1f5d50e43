-- Settings of a queue: its retention, the declarations of workers, and requests of an operator to workers.

-- Set which jobs the queue keeps, and for how long. `keeps` has a `Keep.text` for each state that is kept.
create function redisjobs_f.retain(q text, given_ms bigint, keeps jsonb) returns text language plpgsql as $$
begin
  insert into redisjobs.settings values (q, 'retention', keeps::text, redisjobs_f._now(given_ms))
    on conflict (queue, name) do update set value = excluded.value, at_ms = excluded.at_ms;
  return redisjobs_f._answer('"OK"');
end $$;

-- Return whether a declaration is noted. If it is done, note it. The last 20 are kept.
create function redisjobs_f.declare(q text, given_ms bigint, declaration text, is_done boolean) returns text
language plpgsql as $$
declare
  its_name text := 'declared:' || declaration;
  is_known boolean := exists (select from redisjobs.settings s where s.queue = q and s.name = its_name);
begin
  if is_done then
    insert into redisjobs.settings values (q, its_name, '', redisjobs_f._now(given_ms))
      on conflict (queue, name) do update set at_ms = excluded.at_ms;
    delete from redisjobs.settings where ctid = any (array(
      select s.ctid from redisjobs.settings s where s.queue = q and starts_with(s.name, 'declared:')
      order by s.at_ms desc, s.name offset 20 for update skip locked
    ));
  end if;
  return redisjobs_f._answer(to_jsonb(is_known));
end $$;

-- Ask a worker to claim no more jobs, to claim again, or to stop. Its next beat finds the request.
create function redisjobs_f.ask_worker(q text, given_ms bigint, worker_id text, its_wish text) returns text
language plpgsql as $$
declare
  there redisjobs.beats;
begin
  select b.* into there from redisjobs.beats b join redisjobs.workers w using (queue, id)
    where b.queue = q and b.id = worker_id for update of b;
  if not found then
    return redisjobs_f._answer('"NOT_FOUND"');
  end if;
  if its_wish <> 'stop' and (there.wish = 'stop' or there.facts ->> 'state' = 'stopping') then
    return redisjobs_f._answer('"STOPPING"');
  end if;
  update redisjobs.beats b set wish = its_wish where b.queue = q and b.id = worker_id;
  perform redisjobs_f._tell('wish', worker_id);
  return redisjobs_f._answer('"OK"');
end $$;

-- Find the workers of a queue after an id, 100 in a step. The answer is {workers, after}. workers: [id, seconds
-- until its lease ends, facts]. after: where the next step begins, '' at the end.
create function redisjobs_f.find_workers(q text, given_ms bigint, after text)
  returns text language plpgsql stable as $$
declare
  now_ms bigint := redisjobs_f._now(given_ms);
  answer jsonb;
begin
  select jsonb_build_object('after', case when count(*) = 100 then max(page.id) else '' end,
    'workers', coalesce(jsonb_agg(
      jsonb_build_array(page.id, coalesce((beat).until_ms - now_ms, 0) / 1000.0,
        coalesce((beat).facts, '{}') || jsonb_build_object('wish', coalesce((beat).wish, '')))
        order by page.id), '[]'))
  into answer from (
    select w.id, (select b from redisjobs.beats b where b.queue = q and b.id = w.id) as beat
    from redisjobs.workers w where w.queue = q and w.id > after order by w.id limit 100
  ) page;
  return redisjobs_f._answer(answer);
end $$;
