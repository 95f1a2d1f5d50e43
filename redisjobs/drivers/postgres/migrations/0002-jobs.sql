-- The tables of queues. Every table has the queue's name first. A time that ends in _ms is in ms since 1970, by
-- the database's clock. Texts that are looked up or compared have the collation "C", because the collation of a
-- database may be slow.

-- One row a job, in any state. `place` has one of these values:
--
-- ready      never delivered
-- returned   handed back by a worker
-- alone      handed back, for a worker that runs nothing else
-- parked     held, or its name is paused
-- line       waits for a limit
-- delayed
-- suspended  waits within its handler
-- running
-- dead
-- completed, cancelled  only where the queue keeps them
create table redisjobs.jobs (
  -- its place in line, unique: greater than the place of each job that came before it
  seq bigint not null,
  queue text collate "C" not null,
  id text collate "C" not null,
  name text collate "C" not null default '',
  parameters text not null default '',      -- JSON
  extra jsonb check (jsonb_typeof(extra) = 'object'),  -- the other fields, all texts; null: none
  rank smallint not null,                   -- of its priority: 0 high, 1 normal, 2 low
  place text collate "C" not null,
  since_ms bigint not null,                 -- when it came to the line, or to its present place beside it
  -- when a delayed job is due, or a suspended job is woken at the latest; null: never
  due_ms bigint,
  worker text collate "C",                  -- that runs it
  deliveries integer not null default 0,
  at_ms bigint not null default 0,          -- when it was last delivered or handed back
  cancelling boolean not null default false,
  was_alone boolean not null default false, -- its last worker ran nothing else
  nonce text collate "C",                   -- tells its push from others of the same id
  unique_key text collate "C",              -- held until it ends
  limit_key text collate "C",
  history text,                             -- what happened that is not usual, a line each
  kind text collate "C",                    -- of a dead letter: its fingerprint, else its reason
  -- signals that it has not waited for yet: a text of JSON by name; null: none
  signals jsonb
) with (
  fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.2
);
-- A hash, so that no plan uses it for a range of places. Plans used a primary key when the table had been empty,
-- or nearly all of its jobs were in one place. A claim then read all live and dead rows.
create index jobs_seq on redisjobs.jobs using hash (seq);
create unique index jobs_id on redisjobs.jobs (queue, id) where place not in ('completed', 'cancelled');
create index jobs_ready on redisjobs.jobs (queue, rank, seq) where place = 'ready';
create index jobs_returned on redisjobs.jobs (queue, rank, seq) where place in ('returned', 'alone');
create index jobs_alone on redisjobs.jobs (queue, at_ms) where place = 'alone';
create index jobs_parked on redisjobs.jobs (queue, rank, seq) where place = 'parked';
create index jobs_line on redisjobs.jobs (queue, name, (coalesce(limit_key, '')), rank, seq) where place = 'line';
-- All lines together, for scans. The rank is cast so that no plan for one line uses this index.
create index jobs_lined on redisjobs.jobs (queue, (rank::integer), seq) include (rank) where place = 'line';
create index jobs_due on redisjobs.jobs (queue, place, due_ms, seq) where place in ('delayed', 'suspended');
create index jobs_running on redisjobs.jobs (queue, worker, seq) where place = 'running';
create index jobs_aside on redisjobs.jobs (queue, place, seq) where place in ('dead', 'completed', 'cancelled');
create index jobs_kind on redisjobs.jobs (queue, kind, seq) include (since_ms) where place = 'dead';
create index jobs_ended on redisjobs.jobs (queue, id) where place in ('completed', 'cancelled');
create sequence redisjobs.line as bigint cache 1;

-- Saved steps of jobs, until the jobs end; see redisjobs/model/steps.py. `extra` of a job has `steps` if it has
-- any. The row with the key '' has the job's checkpoint, if there is one, and the version of the handler that
-- saved the first step. A step that runs children (how: `children`) has the token of their group as its value, and
-- no number until all of them have ended.
create table redisjobs.steps (
  queue text collate "C" not null, id text collate "C" not null, key text collate "C" not null, number integer,
  at_ms bigint not null, how text, value text,
  version integer, primary key (queue, id, key)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- The children of one step of a job; see functions/children.sql.
create table redisjobs.groups (
  queue text collate "C" not null, token text collate "C" not null, parent text collate "C" not null,
  key text collate "C" not null, total integer not null,
  pending integer not null,                 -- how many have not ended
  primary key (queue, token)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- How children have ended, until their parent ends: `state`, see redisjobs/model/children.py. null: the child has
-- not ended, and has a row because it has an id of its own.
create table redisjobs.children (
  queue text collate "C" not null, token text collate "C" not null, index integer not null, id text collate "C",
  state text collate "C", value text, error text,
  error_type text, reason text, primary key (queue, token, index)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Groups whose children have to be cancelled, from `next` on; and deleted groups with rows left in `children`.
create table redisjobs.cancelling (
  queue text collate "C" not null, token text collate "C" not null, next integer not null default 0,
  primary key (queue, token)
);

-- The job that holds a unique key; until_ms null: until that job ends. See functions/keys.sql.
create table redisjobs.uniques (
  queue text collate "C" not null, key text collate "C" not null, id text collate "C" not null, until_ms bigint,
  primary key (queue, key)
);
create index uniques_until on redisjobs.uniques (queue, until_ms) where until_ms is not null;

-- Workers with a lease. A row never changes; beats change `beats`.
create table redisjobs.workers (
  queue text collate "C" not null, id text collate "C" not null, run text collate "C" not null,
  lease_ms bigint not null, began_ms bigint not null,
  primary key (queue, id)
);
create table redisjobs.beats (
  queue text collate "C" not null, id text collate "C" not null, until_ms bigint not null,
  facts jsonb not null default '{}', wish text,
  cancels integer not null default 0, primary key (queue, id)
) with (fillfactor = 50, autovacuum_vacuum_cost_delay = 0);
-- Workers that lost their lease; their ids stay taken until then.
create table redisjobs.fenced (
  queue text collate "C" not null, id text collate "C" not null, until_ms bigint not null, primary key (queue, id)
);

-- Restrictions on the jobs that may start. Kinds: `queue` (paused), `name` (a paused job name), `held` (a job id),
-- `limit` (of a job name; value is its text, '' for a removed limit while its lines and shares last).
create table redisjobs.rules (
  queue text collate "C" not null, kind text collate "C" not null, name text collate "C" not null,
  since_ms bigint not null, value text,
  primary key (queue, kind, name)
);
-- Under limits, jobs are counted by bucket: by name and limit key ('' for none). A row never changes: a new row
-- with the next number replaces it. So an index finds the new row first, before all dead rows that a long-held
-- snapshot keeps.
create table redisjobs.buckets (
  queue text collate "C" not null, name text collate "C" not null, key text collate "C" not null,
  number bigint not null,
  running integer not null,                 -- how many jobs have a share
  next_us bigint not null,                  -- when the next job starts at a steady rate
  is_open boolean not null,                 -- jobs that come now wait in line
  turn_ms bigint,                           -- when a job of its line may start
  line_from bigint[] not null,              -- by rank: its line has no job before this place
  primary key (queue, name, key, number)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index buckets_turn on redisjobs.buckets (queue, turn_ms) where turn_ms is not null;
create index buckets_open on redisjobs.buckets (queue, name, key, number desc) where is_open;
create index buckets_over on redisjobs.buckets (queue, next_us) where not is_open and running = 0;
-- The running jobs that have a share of a limit.
create table redisjobs.shares (
  queue text collate "C" not null, seq bigint not null, name text collate "C" not null,
  key text collate "C" not null,
  id text collate "C" not null,
  spent boolean not null default true,      -- its start counts for a rate: it has not gone on after a wait
  primary key (queue, seq)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index shares_bucket on redisjobs.shares (queue, name, key, seq);

-- Rings: rows are inserted and never changed; TRUNCATE empties the oldest of three tables. See
-- functions/rings.sql. The ledger has the pushes of the last minute that `ended`, were `refused`, or met a unique
-- key (`answer`).
do $$
begin
  for i in 0..2 loop
    execute format('create table redisjobs.ledger_%s (queue text collate "C" not null, '
      'key text collate "C" not null,
      value text, until_ms bigint not null) with (autovacuum_enabled = false)', i);
    execute format('create index on redisjobs.ledger_%s (queue, key)', i);
    -- An expression, so that only the rotation uses it: plans are made while the tables are empty.
    execute format('create index on redisjobs.ledger_%s ((until_ms + 0))', i);
    execute format('create table redisjobs.turns_%s (queue text collate "C" not null,
      worker text collate "C" not null, lane integer not null,
      number bigint not null, answer text not null, at_ms bigint not null) with (autovacuum_enabled = false)', i);
    execute format('create index on redisjobs.turns_%s (queue, worker, lane, number)', i);
    execute format('create index on redisjobs.turns_%s (at_ms)', i);
  end loop;
end $$;
create view redisjobs.ledger as
  select * from redisjobs.ledger_0 union all select * from redisjobs.ledger_1
  union all select * from redisjobs.ledger_2;
create view redisjobs.turns as
  select * from redisjobs.turns_0 union all select * from redisjobs.turns_1
  union all select * from redisjobs.turns_2;

-- Counters: changes are inserted, and folded into `totals` from time to time.
create table redisjobs.deltas (queue text collate "C" not null, name text collate "C" not null, n bigint not null);
create index deltas_queue on redisjobs.deltas (queue, name);
create table redisjobs.totals (
  queue text collate "C" not null, name text collate "C" not null, n bigint not null, primary key (queue, name)
);

-- How jobs ended whose result is kept. The value is deleted at value_until_ms, the rest at until_ms.
create table redisjobs.results (
  queue text collate "C" not null, id text collate "C" not null, ending text not null, value text,
  value_until_ms bigint not null,
  error text not null default '', error_type text not null default '', until_ms bigint not null,
  primary key (queue, id)
);
create index results_until on redisjobs.results (queue, until_ms);
create index results_value on redisjobs.results (queue, value_until_ms) where value is not null;
create table redisjobs.progress (
  queue text collate "C" not null, id text collate "C" not null, value text not null, until_ms bigint not null,
  primary key (queue, id)
) with (fillfactor = 50);
create index progress_until on redisjobs.progress (queue, until_ms);
-- Processes that wait for a job.
create table redisjobs.waiters (
  queue text collate "C" not null, id text collate "C" not null, process text collate "C" not null,
  at_ms bigint not null, primary key (queue, id, process)
);
create index waiters_at on redisjobs.waiters (queue, at_ms);

-- Facts about the queue: retention, declared:<hash>, tidied, keys, promoter, schedules.
create table redisjobs.settings (
  queue text collate "C" not null, name text collate "C" not null, value text not null, at_ms bigint not null,
  primary key (queue, name)
);

-- declared_by: when the scheduler that declares it began; null: it was put at run time. declared_ms: when it was
-- last declared. change: the number of its last change. removed: only its name is left, for schedulers that don't
-- know yet.
create table redisjobs.schedules (
  queue text collate "C" not null, name text collate "C" not null, fields jsonb not null,
  fingerprint text not null,
  last_ms bigint not null,
  fired_ms bigint, fired_by text not null default '', missed bigint not null default 0,
  is_paused boolean not null default false, change bigint not null default 0, declared_by bigint,
  declared_ms bigint, release text collate "C" not null default '', removed boolean not null default false,
  primary key (queue, name)
);
-- for the list of changes, not for look-ups by name
create index schedules_change on redisjobs.schedules (queue, change) where change > 0;
create index schedules_declared on redisjobs.schedules (queue, declared_ms) where declared_ms is not null;
create index schedules_removed on redisjobs.schedules (queue, change) where removed;
-- id '': when any scheduler of this release last reported.
create table redisjobs.schedulers (
  queue text collate "C" not null, release text collate "C" not null, id text collate "C" not null,
  seen_ms bigint not null,
  primary key (queue, release, id)
);

create table redisjobs.intervals (
  queue text collate "C" not null, minutes integer not null, number bigint not null,
  total jsonb not null default '{}',
  sample jsonb not null default '{}', names jsonb not null default '{}', causes jsonb not null default '{}',
  primary key (queue, minutes, number)
);
create table redisjobs.recorded (
  queue text collate "C" not null, recorder text collate "C" not null, number bigint not null,
  until_ms bigint not null,
  primary key (queue, recorder)
);
