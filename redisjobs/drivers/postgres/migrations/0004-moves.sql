-- Jobs in transit to another store, in no queue: see redisjobs/model/moving.py.
create table redisjobs.taken (
  queue text collate "C" not null,
  place bigint not null,                    -- in line: greater than those of all that were taken before
  id text collate "C" not null,
  state text collate "C" not null,          -- ready, delayed, suspended, dead, completed, cancelled
  rank smallint not null,
  since_ms bigint not null,                 -- when it came to that state
  due_ms bigint,
  held boolean not null,
  taken_ms bigint not null,
  name text collate "C" not null, parameters text not null, extra jsonb, nonce text collate "C",
  unique_key text collate "C", limit_key text collate "C", history text,
  -- its saved steps, a list; each like a row of the table `steps`; null: none
  steps jsonb,
  signals jsonb,                            -- like those of a job
  -- by token, how the children have ended: a list of state, value, error and error type each
  children jsonb,
  primary key (queue, place)
);

-- The store to which a mover took a schedule when it paused it; '': no mover did.
alter table redisjobs.schedules add column moved_to text not null default '';

-- Jobs from another store that this one refused, by their places there: see redisjobs/model/moving.py.
create table redisjobs.refused (
  queue text collate "C" not null, source text collate "C" not null, place text collate "C" not null,
  primary key (queue, source, place)
);
