-- Chunks that jobs emit for their readers: see redisjobs/model/chunks.py. One row for each job that has emitted
-- any.
create table redisjobs.streams (
  queue text collate "C" not null, id text collate "C" not null,
  began_ms bigint not null,                 -- when its first chunk was stored
  first bigint not null default 1,          -- the number of the oldest chunk that is kept
  last bigint not null default 0,           -- the number of the newest one
  bytes bigint not null default 0,          -- of all chunks, also of dropped ones
  run integer not null default 0,
  wait integer not null default 0,          -- the number of the last wait that was over when this run began
  until_ms bigint not null,
  primary key (queue, id)
) with (fillfactor = 50);
create index streams_until on redisjobs.streams (queue, until_ms);

create table redisjobs.chunks (
  queue text collate "C" not null, id text collate "C" not null, number bigint not null, run integer not null,
  before bigint not null,                   -- how many bytes were emitted before it
  kind text collate "C" not null, data bytea not null,
  primary key (queue, id, number)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
