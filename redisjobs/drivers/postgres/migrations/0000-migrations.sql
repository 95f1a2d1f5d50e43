-- The schema, and the list of migrations in it. A role that may not create schemas can use an existing one.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'redisjobs') THEN
    CREATE SCHEMA redisjobs;
  END IF;
END $$;

CREATE TABLE IF NOT EXISTS redisjobs.migrations (
  version int PRIMARY KEY,
  name text NOT NULL,
  works_with int NOT NULL,  -- releases that know this version, or a newer one, work with this schema
  at timestamptz NOT NULL DEFAULT now()
);
