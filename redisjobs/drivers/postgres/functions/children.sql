-- Children of jobs. All children of one step form a group. The field `child_of` of a child has the group's token
-- and the child's index in the group.
--
-- A call notes in `children` how the children that it ends have ended. It counts them in their groups as its last
-- act, so it locks a group only for a short time. That matters because many workers may end children of one group
-- at once. The call that ends the last child wakes the parent.

-- Add children of a running job, each once. `s` has their group (token, key and total), version, and pushes.
-- Return for each whether it was added.
create function redisjobs_f._add_children(job redisjobs.jobs, s jsonb, now_ms bigint)
  returns jsonb language plpgsql as $$
declare
  q constant text := job.queue;
  its_token constant text := s->'group'->>'token';
  its_key constant text := s->'group'->>'key';
  total constant integer := s->'group'->>'total';
  children constant jsonb := coalesce(s->'pushes', '[]');
  wanted integer[];
  added integer[] := '{}';
  taken integer[];
  named integer[];  -- positions of wanted children that have ids of their own
begin
  perform redisjobs_f._mark_stepped(job, s, now_ms);
  insert into redisjobs.groups values (q, its_token, job.id, its_key, total, total) on conflict do nothing;
  insert into redisjobs.steps (queue, id, key, at_ms, how, value)
  values (q, job.id, its_key, now_ms, 'children', its_token)
    on conflict do nothing;
  -- In one statement, so that a child that was added before is either a job or has an outcome.
  select array_agg(c.at order by c.at) filter (where c.is_free),
    array_agg(c.at order by c.at) filter (where not c.is_free),
    array_agg(c.at) filter (where c.is_free and c.id <> its_token || '-' || c.index)
  into wanted, taken, named from (
    select child.*, there.seq is null as is_free
    from (
      select value->>'id' as id, value->'extra'->>'child_of' as child_of,
        redisjobs_f._index_of(value->'extra') as index, at::integer
      from jsonb_array_elements(children) with ordinality each(value, at)
    ) child left join lateral (
      select j.seq, j.extra->>'child_of' as child_of from redisjobs.jobs j
      where j.queue = q and j.id = child.id and j.place not in ('completed', 'cancelled') limit 1) there on true
    where there.child_of is distinct from child.child_of and (
      select c.state from redisjobs.children c where c.queue = q and c.token = its_token
        and c.index = child.index) is null
  ) c;
  if named is not null then
    insert into redisjobs.children (queue, token, index, id)
    select q, its_token, redisjobs_f._index_of(children->(n.at - 1)->'extra'), children->(n.at - 1)->>'id'
    from unnest(named) n(at)
    on conflict do nothing;
  end if;
  if children @? '$[*].unique' then
    added := redisjobs_f._add_keyed(q, its_token, children, wanted, now_ms);
  elsif wanted is not null then
    added := redisjobs_f._add_plain(q, children, wanted, now_ms);
    taken := taken || array(select w.at from unnest(wanted) w(at) where w.at <> all (added));
  end if;
  perform redisjobs_f._note_child(q, its_token, redisjobs_f._index_of(children->(t.at - 1)->'extra'), 'exists',
    null,
    children->(t.at - 1)->>'id', null, null) from unnest(taken) t(at);
  perform redisjobs_f._forget_end(q, children->(n.at - 1)->>'id') from unnest(named) n(at)
    where n.at = any (added);
  return (select coalesce(jsonb_agg(at = any (added) order by at), '[]')
    from generate_series(1, jsonb_array_length(children)) at);
end $$;

-- Return the index of a child in its group, given its fields.
create function redisjobs_f._index_of(fields jsonb) returns integer language plpgsql immutable as $$
begin
  return substring(fields->>'child_of' from ' ([0-9]{1,9})$');
end $$;

-- Add children without unique keys, by their positions in `children`. Return the positions of added children. A
-- child is not added if its id is taken by now, or comes twice.
create function redisjobs_f._add_plain(q text, children jsonb, wanted integer[], now_ms bigint) returns integer[]
language plpgsql as $$
declare
  made text[];
  first_ms bigint;
  any_ready boolean;
  added integer[] := wanted;
begin
  with numbered as materialized (
    select children->(w.at - 1) as job, redisjobs_f._due(children->(w.at - 1), now_ms) as due,
      nextval('redisjobs.line') as seq
    from unnest(wanted) w(at)
  ), made as (
    insert into redisjobs.jobs (seq, queue, id, name, parameters, extra, rank, place, since_ms, due_ms, limit_key)
    select n.seq, q, n.job->>'id', n.job->>'name', n.job->>'parameters',
      redisjobs_f._fields_of(n.job, n.due, now_ms),
      (n.job->>'rank')::smallint, case when n.due > now_ms then 'delayed' else 'ready' end, now_ms,
      case when n.due > now_ms then n.due end, n.job->>'limit_key'
    from numbered n order by n.seq
    on conflict (queue, id) where place not in ('completed', 'cancelled') do nothing
    returning extra->>'child_of' as child_of, due_ms
  )
  select array_agg(m.child_of), min(m.due_ms), bool_or(m.due_ms is null) into made, first_ms, any_ready
  from made m;
  if coalesce(cardinality(made), 0) < cardinality(wanted) then
    added := array(select w.at from unnest(wanted) w(at)
      where children->(w.at - 1)->'extra'->>'child_of' = any (made));
  end if;
  perform redisjobs_f._count(q, 'pushed', cardinality(added));
  if any_ready then
    perform redisjobs_f._announce(q, null, now_ms);
  end if;
  if first_ms is not null then
    perform redisjobs_f._announce(q, first_ms, now_ms);
  end if;
  return added;
end $$;

-- Add children one by one, because some of them have unique keys. The answer is that of `_add_plain`.
create function redisjobs_f._add_keyed(q text, its_token text, children jsonb, wanted integer[], now_ms bigint)
  returns integer[] language plpgsql as $$
declare
  added integer[] := '{}';
  child jsonb;
  answer record;
begin
  for i in 1..coalesce(cardinality(wanted), 0) loop
    child := children->(wanted[i] - 1);
    select a.word, a.holder into answer from redisjobs_f._add(q, child, now_ms) a;
    if answer.word = 'OK' then
      added := added || wanted[i];
    else
      perform redisjobs_f._note_child(q, its_token, redisjobs_f._index_of(child->'extra'),
        case answer.word when 'EXISTS' then 'exists' else 'duplicate' end, null,
        case answer.word when 'EXISTS' then child->>'id' else answer.holder end, null, null);
    end if;
  end loop;
  return added;
end $$;

-- Note how a child has ended.
create function redisjobs_f._end_child(job redisjobs.jobs, state text, result jsonb)
  returns void language plpgsql as $$
declare
  refused constant text := nullif(result->>'refused', '');
begin
  perform redisjobs_f._note_child(job.queue, split_part(job.extra->>'child_of', ' ', 1),
    redisjobs_f._index_of(job.extra),
    case when state = 'completed' and refused is not null then 'refused' else state end,
    case when state = 'completed' and refused is null then result->>'value' end,
    case state when 'completed' then refused when 'dead' then job.extra->>'error' end,
    case state when 'dead' then job.extra->>'error_type' end, case state when 'dead'
      then job.extra->>'reason' end);
end $$;

-- Note the outcome of a child that has none yet, unless its parent has ended.
create function redisjobs_f._note_child(q text, its_token text, its_index integer, its_state text, its_value text,
  its_error text, its_error_type text, its_reason text) returns void language plpgsql as $$
begin
  insert into redisjobs.children as c (queue, token, index, state, value, error, error_type, reason)
  select q, its_token, its_index, its_state, its_value, its_error, its_error_type, its_reason
  from redisjobs.groups g where g.queue = q and g.token = its_token and its_index is not null
  on conflict (queue, token, index) do update set (state, value, error, error_type, reason) =
    (excluded.state, excluded.value, excluded.error, excluded.error_type, excluded.reason) where c.state is null;
  if found then
    perform redisjobs_f._touch_group(its_token, 1);
  end if;
end $$;

-- Note that this call has to count ended children of a group, and to check whether all have ended.
create function redisjobs_f._touch_group(its_token text, ended integer) returns void language plpgsql as $$
begin
  perform set_config('redisjobs.groups',
    concat(current_setting('redisjobs.groups', true), its_token || ' ' || ended || E'\n'), true);
end $$;

-- Count the children that this call has ended, and wake parents that wait for no other child. Return whether it
-- woke any. Every call that may end jobs does this last.
create function redisjobs_f._count_children(q text, now_ms bigint) returns boolean language plpgsql as $$
declare
  noted constant text := coalesce(current_setting('redisjobs.groups', true), '');
  ended record;
  each_group redisjobs.groups;
  done redisjobs.groups[] := '{}';
begin
  if noted = '' then
    return false;
  end if;
  perform set_config('redisjobs.groups', '', true);
  for ended in
    select split_part(l.line, ' ', 1) as token, sum(split_part(l.line, ' ', 2)::integer)::integer as number
    from string_to_table(rtrim(noted, E'\n'), E'\n') l(line) group by 1 order by 1
  loop
    update redisjobs.groups g set pending = g.pending - ended.number where g.queue = q and g.token = ended.token
      returning * into each_group;
    if not found then  -- its parent has ended meanwhile
      perform redisjobs_f._forget_outcomes(q, ended.token);
    elsif each_group.pending <= 0 then
      done := done || each_group;
    end if;
  end loop;
  return done <> '{}' and redisjobs_f._wake_parents(q, done, now_ms);
end $$;

-- Wake the parents of these groups if they wait for them. The groups are over, and locked. Forget groups whose
-- parents have ended. Return whether it woke any.
create function redisjobs_f._wake_parents(q text, done redisjobs.groups[], now_ms bigint)
  returns boolean language plpgsql as $$
declare
  seqs bigint[];
  places integer[];  -- positions in `done`
begin
  select array_agg((j.job).seq order by (j.job).seq), array_agg(d.n order by (j.job).seq) into seqs, places
  from generate_subscripts(done, 1) d(n) cross join lateral (
    select each as job from redisjobs.jobs each
    where each.queue = q and each.id = done[d.n].parent and each.place not in ('completed', 'cancelled') limit 1) j
  where redisjobs_f._waits_for(j.job, done[d.n]);
  perform redisjobs_f._lock_jobs(seqs);  -- out of order: after the groups
  select coalesce(array_agg(j.seq order by s.n), '{}'), array_agg(s.place order by s.n) into seqs, places
  from unnest(seqs, places) with ordinality s(seq, place, n) join redisjobs.jobs j on j.seq = s.seq
  where redisjobs_f._waits_for(j, done[s.place]);
  perform redisjobs_f._wake(q, seqs, 'children', array(select done[n].token from unnest(places) n), now_ms);
  perform redisjobs_f._forget_groups(q, array(
    select done[d.n].token from generate_subscripts(done, 1) d(n) where not redisjobs_f._is_open(done[d.n])));
  if seqs <> '{}' then
    perform redisjobs_f._announce(q, null, now_ms);
  end if;
  return seqs <> '{}';
end $$;

-- Return whether a job is suspended until all children of a group have ended.
create function redisjobs_f._waits_for(job redisjobs.jobs, its_group redisjobs.groups)
  returns boolean language plpgsql as $$
begin
  return job.place = 'suspended' and substring(job.extra->>'waits' from '^[0-9]+ children (\S+)') = its_group.key
    and redisjobs_f._is_open(its_group);
end $$;

-- Return whether the parent of a group has not ended. This sees the last commit.
create function redisjobs_f._is_open(its_group redisjobs.groups) returns boolean language plpgsql volatile as $$
begin
  return exists (select from redisjobs.steps s where s.queue = its_group.queue and s.id = its_group.parent
    and s.key = its_group.key and s.value = its_group.token);
end $$;

-- Schedule the cancellation of children in these groups that have not ended. Return the other groups. This locks
-- no group, because the call that has a group locked may wait for its parent.
create function redisjobs_f._cancel_groups(q text, tokens text[]) returns text[] language plpgsql as $$
declare
  others text[] := '{}';
  its_token text;
begin
  foreach its_token in array tokens loop
    if exists (select from redisjobs.groups g where g.queue = q and g.token = its_token and g.pending > 0) then
      insert into redisjobs.cancelling values (q, its_token) on conflict do nothing;
    else
      others := others || its_token;
    end if;
  end loop;
  return others;
end $$;

-- Forget groups, and how their children have ended.
create function redisjobs_f._forget_groups(q text, tokens text[]) returns void language plpgsql as $$
declare
  its_token text;
begin
  foreach its_token in array coalesce(tokens, '{}') loop
    delete from redisjobs.groups g where g.queue = q and g.token = its_token;
    -- a call that has a row locked will see that the group is gone
    delete from redisjobs.cancelling where ctid = any (array(
      select c.ctid from redisjobs.cancelling c where c.queue = q and c.token = its_token for update skip locked));
    perform redisjobs_f._forget_outcomes(q, its_token);
  end loop;
end $$;

-- Forget how the children of a deleted group have ended: 1,000 now, and the others when the queue is tidied.
create function redisjobs_f._forget_outcomes(q text, its_token text) returns void language plpgsql as $$
declare
  number integer;
begin
  delete from redisjobs.children where ctid = any (array(
    select c.ctid from redisjobs.children c where c.queue = q and c.token = its_token limit 1000));
  get diagnostics number = row_count;
  if number = 1000 then
    insert into redisjobs.cancelling values (q, its_token) on conflict do nothing;
  end if;
end $$;

-- Make a dead child a member of its group again, if the parent waits for other children of it. Return whether it
-- is a member.
create function redisjobs_f._reopen(job redisjobs.jobs, now_ms bigint) returns boolean language plpgsql as $$
declare
  its_token constant text := split_part(job.extra->>'child_of', ' ', 1);
  its_index constant integer := redisjobs_f._index_of(job.extra);
  its_group redisjobs.groups;
begin
  perform redisjobs_f._count_children(job.queue, now_ms);  -- this call may have ended others
  select * into its_group from redisjobs.groups g where g.queue = job.queue and g.token = its_token for update;
  if its_group.token is null or its_group.pending <= 0 or not redisjobs_f._is_open(its_group) then
    return false;
  end if;
  update redisjobs.children c set state = null, value = null, error = null, error_type = null, reason = null
    where c.queue = job.queue and c.token = its_token and c.index = its_index and c.state is not null;
  if found then
    update redisjobs.groups g set pending = g.pending + 1 where g.queue = job.queue and g.token = its_token;
  end if;
  return true;
end $$;

-- Cancel children whose parent was cancelled: up to 100 of one group. Return whether there are more.
create function redisjobs_f.cancel_children(q text, given_ms bigint) returns text language plpgsql as $$
declare
  now_ms constant bigint := redisjobs_f._now(given_ms);
begin
  perform redisjobs_f._need_read_committed();
  return redisjobs_f._answer(to_jsonb(redisjobs_f._cancel_some(q, now_ms)));
end $$;

create function redisjobs_f._cancel_some(q text, now_ms bigint)
  returns boolean language plpgsql set lock_timeout = '2s' as $$
declare
  one redisjobs.cancelling;
  its_group redisjobs.groups;
  child record;
begin
  select * into one from redisjobs.cancelling c where c.queue = q order by c.token limit 1 for update;
  if not found then
    return false;
  end if;
  select * into its_group from redisjobs.groups g where g.queue = q and g.token = one.token;
  if its_group.token is null then  -- its parent has ended, or was deleted
    delete from redisjobs.cancelling c where c.queue = q and c.token = one.token;
    perform redisjobs_f._forget_outcomes(q, one.token);
    return exists (select from redisjobs.cancelling c where c.queue = q);
  end if;
  perform redisjobs_f._lock_by_id(q, array(select u.id from redisjobs_f._unended(its_group, one.next) u));
  perform redisjobs_f._lock_beats(q, array(select u.id from redisjobs_f._unended(its_group, one.next) u));
  for child in select * from redisjobs_f._unended(its_group, one.next) loop
    if redisjobs_f._cancel(q, child.id, now_ms) = 'NOT_FOUND' then  -- its parent has not added it yet
      perform redisjobs_f._note_child(q, one.token, child.index, 'cancelled', null, null, null, null);
    end if;
  end loop;
  one.next := one.next + 100;
  if one.next < its_group.total then
    update redisjobs.cancelling c set next = one.next where c.queue = q and c.token = one.token;
  else
    delete from redisjobs.cancelling c where c.queue = q and c.token = one.token;
  end if;
  -- Delete the group in case its last child ended just as its parent was cancelled.
  perform redisjobs_f._touch_group(one.token, 0);
  perform redisjobs_f._count_children(q, now_ms);
  return exists (select from redisjobs.cancelling c where c.queue = q);
end $$;

-- Return children of a group that have not ended or were not added yet: up to 100 indexes from `next` on.
create function redisjobs_f._unended(its_group redisjobs.groups, next integer)
  returns table (index integer, id text)
  language plpgsql stable as $$
begin
  return query select i.n, coalesce(c.id, its_group.token || '-' || i.n)
    from generate_series(next, least(next + 100, its_group.total) - 1) i(n) left join lateral (
      select each.id, each.state from redisjobs.children each
      where each.queue = its_group.queue and each.token = its_group.token and each.index = i.n limit 1) c on true
    where c.state is null;
end $$;

-- Lock the groups that these jobs are children of. All calls lock groups in the same order.
create function redisjobs_f._lock_groups_of(q text, seqs bigint[]) returns void language plpgsql as $$
begin
  perform from (
    select distinct split_part(j.extra->>'child_of', ' ', 1) as token from unnest(seqs) s(seq)
    join redisjobs.jobs j on j.seq = s.seq
    where j.extra ? 'child_of' order by 1
  ) its cross join lateral (select from redisjobs.groups g where g.queue = q and g.token = its.token for update) g;
end $$;

-- Return how the children of a group have ended, from an index on: up to `most`, or about 1 MB. A child has a row
-- if it has ended or has an id of its own. `meta` is [id of the parent, key of the step, number of children,
-- number of children that have not ended, index of the next step], or null.
create function redisjobs_f.find_children(q text, given_ms bigint, its_token text, first integer, most integer)
  returns table (meta text, index integer, id text, state text, value text, error text, error_type text,
    reason text)
  language plpgsql stable as $$
#variable_conflict use_column
declare
  its_group redisjobs.groups;
  next integer;
  bytes bigint := 0;
begin
  select * into its_group from redisjobs.groups g where g.queue = q and g.token = its_token;
  next := least(first + most, its_group.total);
  for index, id, state, value, error, error_type, reason in
    select c.index, c.id, c.state, c.value, c.error, c.error_type, c.reason from redisjobs.children c
    where c.queue = q and c.token = its_token and c.index >= first and c.index < next order by c.index
  loop
    return next;
    bytes := bytes + octet_length(concat(value, error));
    if bytes >= 1048576 then
      next := index + 1;
      exit;
    end if;
  end loop;
  meta := redisjobs_f._answer(case when its_group.token is null then 'null'::jsonb
    else jsonb_build_array(its_group.parent, its_group.key, its_group.total, its_group.pending, next) end);
  return next;
end $$;
