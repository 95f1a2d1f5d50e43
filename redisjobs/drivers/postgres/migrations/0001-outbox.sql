-- Jobs that a transaction pushes to a queue elsewhere. `redisjobs relay` pushes them to that queue, and deletes
-- them.
CREATE TABLE redisjobs.outbox (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  queue text collate "C" NOT NULL,
  id text collate "C" NOT NULL DEFAULT gen_random_uuid(),
  -- It identifies this push of the id; '' if the id was made for the push.
  nonce text collate "C" NOT NULL DEFAULT gen_random_uuid(),
  name text collate "C" NOT NULL,
  parameters json NOT NULL DEFAULT '{}',
  options json NOT NULL DEFAULT '{}',  -- options without a column
  due_at timestamptz,
  pushed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  error text,  -- why it can't be pushed
  failed_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX outbox_waiting ON redisjobs.outbox (queue, seq) WHERE failed_at IS NULL;
CREATE INDEX outbox_failed ON redisjobs.outbox (queue, seq) WHERE failed_at IS NOT NULL;

-- Names this outbox in Redis, where several databases may push to one queue.
CREATE TABLE redisjobs.outbox_identity (
  only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
  id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO redisjobs.outbox_identity DEFAULT VALUES;
