"""The schema `redisjobs` of a database: its migrations and functions, and the check that it fits this release.

A migration is a file `migrations/NNNN-name.sql`. It runs once, in a transaction with its row in
`redisjobs.migrations`, so an interrupted one has done nothing. Comments at its start change that:

- `-- not in a transaction`: its statements run one by one, as CREATE INDEX CONCURRENTLY demands. Each ends with a
  semicolon at the end of a line. They must be safe to run again, because an interruption leaves some of them done:
  `DROP INDEX CONCURRENTLY IF EXISTS` comes before the CREATE, since an interrupted one leaves an invalid index.
- `-- works with NNNN`: releases that know no version after this one still work. Without it, older releases refuse
  the new schema.

The functions of `functions/*.sql` are installed together, beside those of other releases; see `functions.py`.
"""

import re
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from redisjobs.base.visible import visible
from redisjobs.drivers.postgres import functions
from redisjobs.drivers.postgres.connecting import connect, library
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.driver import OtherVersion

MIGRATE = "run `redisjobs migrate --database URL`"
MIGRATE_OR_LEARN = f"{MIGRATE} of this release; it says so if a newer one is needed, or a table was dropped"
_LOCK = 0x7265_6469_736A_6F62
"""The advisory lock of a migration: "redisjob" in ASCII."""
_LOOK = 0.1  # seconds between two tries to get it
_FILE = re.compile(r"(\d{4})-([a-z0-9-]+)\.sql")
_WORKS_WITH = re.compile(r"^-- works with (\d{4})$", re.MULTILINE)

APPLIED = """
  SELECT version, works_with FROM redisjobs.migrations ORDER BY version
"""
# Not to_regclass: it may answer from a cache, and miss what another host has made since this transaction began.
HAS_MIGRATIONS = """
  SELECT EXISTS (
    SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = 'redisjobs' AND relname = 'migrations'
  )
"""
HAS_FUNCTIONS = """
  SELECT proname FROM pg_proc
  WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'redisjobs') AND proname = ANY(%s)
"""
_KNOWS = "_knows_"
"""Begins the name of a function of each release, which returns the newest migration that the release knows."""
_NOTED = f"""
INSERT INTO redisjobs.migrations (version, name, works_with) VALUES ({{version}}, '{{name}}', {{works_with}});
DO $$  -- drop the functions of releases that can't work with the schema any more
DECLARE
  known name;
  knows int;
  dropping text;
BEGIN
  FOR known IN
    SELECT proname FROM pg_proc
    WHERE pronamespace = 'redisjobs'::regnamespace AND proname ~ '^{_KNOWS}[0-9a-f]{{{{10}}}}$'
  LOOP
    EXECUTE format('SELECT redisjobs.%I()', known) INTO knows;
    IF knows < {{works_with}} THEN
      FOR dropping IN
        SELECT format('DROP ROUTINE %s', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = 'redisjobs'::regnamespace AND right(proname, 11) = right(known, 11)
      LOOP
        EXECUTE dropping;
      END LOOP;
    END IF;
  END LOOP;
END $$;
"""
_LOCKS_WITHIN = "SET LOCAL lock_timeout = '500ms';"  # all calls of a table wait behind one that waits for its lock
_BLOCKERS = """
  SELECT pid, usename, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::int
  FROM pg_stat_activity WHERE xact_start < clock_timestamp() - interval '400 ms' AND pid IN (
    SELECT pid FROM pg_locks JOIN pg_class ON pg_class.oid = relation
    WHERE granted AND relnamespace = 'redisjobs'::regnamespace AND relkind = 'r'
  ) AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 3
"""
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between tries to lock a table; the last one for all others
_TRIES = 60
_MADE = re.compile(r"^create table (?:if not exists )?redisjobs\.(\w+) \(", re.MULTILINE | re.IGNORECASE)
TABLES = """
  SELECT relname FROM pg_class
  WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'redisjobs') AND relkind IN ('r', 'p')
"""
OWNER = """
  SELECT rolname, rolsuper FROM pg_proc JOIN pg_roles ON pg_roles.oid = proowner
  WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'redisjobs') AND proname = %s
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from one version of the schema to the next."""

    version: int
    name: str
    text: str

    @property
    def works_with(self) -> int:
        """The lowest version that a release must know to work with the schema after this step."""
        match = _WORKS_WITH.search(self.text)
        return int(match[1]) if match else self.version

    @property
    def is_transaction(self) -> bool:
        """Whether all of it happens, or nothing."""
        return not re.search("^-- not in a transaction$", self.text, re.MULTILINE)

    @property
    def statements(self) -> list[str]:
        """Its statements, for one that is no transaction."""
        return [each for each in map(str.strip, re.split(r";[ \t]*$", self.text, flags=re.MULTILINE)) if each]

    @property
    def noting(self) -> str:
        """The statements that note that it has run."""
        return _NOTED.format(version=self.version, name=self.name, works_with=self.works_with)

    @property
    def whole(self) -> str:
        """The SQL of it for psql, with what notes that it has run."""
        if not self.is_transaction:
            return f"{self.text}{self.noting}"
        return f"BEGIN;\n{_LOCKS_WITHIN}\n{self.text}{self.noting}COMMIT;\n"

    def __str__(self) -> str:
        return f"{self.version:04} {self.name}"


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations that this release knows, in order."""
    folder = files("redisjobs.drivers.postgres").joinpath("migrations")
    found = [(match, each) for each in folder.iterdir() if (match := _FILE.fullmatch(each.name))]
    return tuple(
        Migration(int(match[1]), match[2], each.read_text("utf-8"))
        for match, each in sorted(found, key=lambda pair: pair[0][1])
    )


def check(applied: Collection[tuple[int, int]], installed: Collection[str] | None = None) -> None:
    """Check that a schema fits this release.

    Args:
        applied: The answer to `APPLIED`; empty if `HAS_MIGRATIONS` says no.
        installed: The answer to `HAS_FUNCTIONS`; None for a program that calls no functions.

    Raises:
        OtherVersion: It does not; the message says what to do.
    """
    known = migrations()
    _refuse_newer(applied, known)
    missing = [each for each in known if each.version not in {version for version, _ in applied}]
    if len(missing) == len(known):
        raise OtherVersion(f"the database has no schema redisjobs: {MIGRATE}")
    if missing:
        raise OtherVersion(f"the schema redisjobs lacks {missing[0]}, which this release needs: {MIGRATE}")
    if installed is not None and functions.mark() not in installed:
        raise OtherVersion(f"the schema redisjobs lacks functions that this release needs: {MIGRATE}")


def migrate(url: str, known: Sequence[Migration] = ()) -> Iterator[str]:
    """Bring a database's schema up to this release, and yield what was done, step by step.

    Any number of hosts may run this at once: each step is done by one of them.

    Args:
        url: The database, as `postgresql://HOST/NAME`.
        known: The migrations. Defaults to those of this release.

    Raises:
        OtherVersion: The schema is newer than this release.
        Unavailable: The database can't be reached, or a transaction keeps a table locked for minutes.
        DriverError: The database refuses, or a table was dropped.
    """
    known = tuple(known or migrations())
    with connect(url) as connection:
        _refuse_newer(_applied(connection), known)
        _refuse_dropped(connection, known)
        for each in known:
            if each.version in _versions(connection):
                continue
            if each.is_transaction:
                is_ours = yield from _apply_when_free(connection, each)
            else:
                is_ours = _apply_in_steps(url, connection, each)
            if is_ours:
                yield f"migrated to {each}"
        newest = migrations()[-1].version
        if known[-1].version >= newest >= max(each.works_with for each in known) and _install(connection):
            yield f"installed the functions of release {functions.release()}"


def danger(url: str) -> str:
    """Return what is dangerous about the role that owns the functions of this release; '' if nothing is."""
    with connect(url) as connection:
        owner = connection.execute(OWNER, (functions.mark(),)).fetchone()
    if owner is None or not owner[1]:
        return ""
    return (
        f"the role {owner[0]!r} is a superuser, and what it installs runs with its rights: "
        "run `redisjobs migrate` as an ordinary role that owns the database or the schema"
    )


def pending(url: str) -> Iterator[str]:
    """Yield the SQL that `migrate` would run."""
    with connect(url) as connection:
        applied = _applied(connection)
        _refuse_newer(applied, migrations())
        _refuse_dropped(connection, migrations())
        for each in migrations():
            if each.version not in {version for version, _ in applied}:
                yield f"-- {each}\n{each.whole}"
        if not _is_installed(connection):
            yield f"-- the functions of release {functions.release()}\nBEGIN;\n{_installation()}COMMIT;\n"


def _refuse_newer(applied: Collection[tuple[int, int]], known: Sequence[Migration]) -> None:
    newest = known[-1].version
    if applied and max(works_with for _, works_with in applied) > newest:
        version = max(version for version, _ in applied)
        raise OtherVersion(
            f"the schema redisjobs has version {version}, and this release knows versions up to {newest} only: "
            "use the newer release. Nothing was written"
        )


def _refuse_dropped(connection: Any, known: Sequence[Migration]) -> None:
    """Refuse a schema that lacks a table which a migration has made: no migration makes it again."""
    done = [each for each in known if each.version in _versions(connection)]
    there = {name for (name,) in connection.execute(TABLES).fetchall()}
    gone = [name for each in done for name in _MADE.findall(each.text) if name not in there]
    if gone:
        raise DriverError(
            f"the table redisjobs.{gone[0]} is gone: it was dropped after a migration had made it. Restore the "
            "schema from a backup. Or begin with empty queues: run `drop schema redisjobs cascade`, which deletes "
            "all jobs, and then `redisjobs migrate` again. Nothing was written"
        )


def _versions(connection: Any) -> set[int]:
    return {version for version, _ in _applied(connection)}


def _applied(connection: Any) -> list[tuple[int, int]]:
    (has_any,) = connection.execute(HAS_MIGRATIONS).fetchone()
    return connection.execute(APPLIED).fetchall() if has_any else []


def _apply_when_free(connection: Any, migration: Migration) -> Generator[str, None, bool]:
    """Apply a migration as soon as it gets its locks at once; yield what it waits for."""
    for tried in range(_TRIES):
        try:
            return _apply(connection, migration)
        except library().errors.LockNotAvailable:
            blockers = _blockers(connection)
        yield f"{migration} waits for {blockers}"
        time.sleep(_PAUSES[min(tried, len(_PAUSES) - 1)])
    raise Unavailable(
        f"the migration {migration} needs a table that is in use by {blockers}: end that, and run it again. "
        "Nothing of it was written"
    )


def _blockers(connection: Any) -> str:
    found = [
        f"pid {pid} ({visible(f'{user} {program} {state}', 100)}), {seconds} s"
        for pid, user, program, state, seconds in connection.execute(_BLOCKERS).fetchall()
    ]
    return "transactions that use its tables: " + ("; ".join(found) or "short ones")


def _apply(connection: Any, migration: Migration) -> bool:
    """Apply a migration in a transaction; return whether no other host had done it."""
    with connection.transaction():
        _lock(connection)
        if migration.version in _versions(connection):
            return False
        connection.execute(_LOCKS_WITHIN)
        connection.execute(migration.text)
        connection.execute(migration.noting)
    return True


def _apply_in_steps(url: str, connection: Any, migration: Migration) -> bool:
    """Apply a migration that can't be a transaction. Another connection holds the lock meanwhile.

    That one has no snapshot, or CREATE INDEX CONCURRENTLY would wait for it.
    """
    with connect(url) as holder, holder.transaction():
        _lock(holder)
        if migration.version in _versions(connection):
            return False
        for statement in migration.statements:
            connection.execute(statement)
        connection.execute(migration.noting)
    return True


def _lock(connection: Any) -> None:
    # Tries until it succeeds: a wait in the server needs a snapshot, and CREATE INDEX CONCURRENTLY waits for that.
    # No parameter, for the same reason: with one, a portal with its snapshot would stay open after the statement.
    while not connection.execute(f"SELECT pg_try_advisory_xact_lock({_LOCK})").fetchone()[0]:
        time.sleep(_LOOK)


def _install(connection: Any) -> bool:
    with connection.transaction():
        _lock(connection)
        if _is_installed(connection):
            return False
        connection.execute(_installation())
    return True


def _installation() -> str:
    """Return the SQL that installs the functions of this release; to be run in a transaction."""
    knows = f"redisjobs.{_KNOWS}{functions.release()}()"
    newest = migrations()[-1].version
    return (
        f"{functions.definitions()}\n"
        f"CREATE FUNCTION {knows} RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {newest}';\n"
        f"REVOKE EXECUTE ON FUNCTION {knows} FROM PUBLIC;\n"
    )


def _is_installed(connection: Any) -> bool:
    return bool(connection.execute(HAS_FUNCTIONS, ([functions.mark()],)).fetchone())
