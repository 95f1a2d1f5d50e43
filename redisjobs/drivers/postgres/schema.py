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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from redisjobs.drivers.postgres import functions
from redisjobs.drivers.postgres.connecting import connect
from redisjobs.model.driver import OtherVersion

MIGRATE = "run `redisjobs migrate --database URL`"
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
KNOWING = f"""
  SELECT proname FROM pg_proc
  WHERE pronamespace = 'redisjobs'::regnamespace AND proname ~ '^{_KNOWS}[0-9a-f]{{10}}$'
"""
OF_RELEASE = """
  SELECT format('DROP ROUTINE %%s', oid::regprocedure) FROM pg_proc
  WHERE pronamespace = 'redisjobs'::regnamespace AND proname LIKE %s
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
        DriverError: The database can't be reached, or refuses.
    """
    known = tuple(known or migrations())
    with connect(url) as connection:
        _refuse_newer(_applied(connection), known)
        for each in known:
            if each.version in _versions(connection):
                continue
            is_ours = _apply(connection, each) if each.is_transaction else _apply_in_steps(url, connection, each)
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
        for each in migrations():
            if each.version not in {version for version, _ in applied}:
                yield f"-- {each}\n{each.text}"
        if not _is_installed(connection):
            yield f"-- the functions of release {functions.release()}\n{functions.definitions()}"


def _refuse_newer(applied: Collection[tuple[int, int]], known: Sequence[Migration]) -> None:
    newest = known[-1].version
    if applied and max(works_with for _, works_with in applied) > newest:
        version = max(version for version, _ in applied)
        raise OtherVersion(
            f"the schema redisjobs has version {version}, and this release knows versions up to {newest} only: "
            "use the newer release. Nothing was written"
        )


def _versions(connection: Any) -> set[int]:
    return {version for version, _ in _applied(connection)}


def _applied(connection: Any) -> list[tuple[int, int]]:
    (has_any,) = connection.execute(HAS_MIGRATIONS).fetchone()
    return connection.execute(APPLIED).fetchall() if has_any else []


def _apply(connection: Any, migration: Migration) -> bool:
    """Apply a migration in a transaction; return whether no other host had done it."""
    with connection.transaction():
        _lock(connection)
        if migration.version in _versions(connection):
            return False
        connection.execute(migration.text)
        _note(connection, migration)
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
        _note(connection, migration)
    return True


def _note(connection: Any, migration: Migration) -> None:
    """Note a migration, and drop the functions of releases that can't work with the schema any more."""
    connection.execute(
        "INSERT INTO redisjobs.migrations (version, name, works_with) VALUES (%s, %s, %s)",
        (migration.version, migration.name, migration.works_with),
    )
    for (name,) in connection.execute(KNOWING).fetchall():
        ((knows,),) = connection.execute(f"SELECT redisjobs.{name}()").fetchall()
        if knows < migration.works_with:
            for (dropping,) in connection.execute(OF_RELEASE, (f"%{name.removeprefix(_KNOWS)}",)).fetchall():
                connection.execute(dropping)


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
        connection.execute(functions.definitions())
        knows = f"redisjobs.{_KNOWS}{functions.release()}()"
        connection.execute(
            f"CREATE FUNCTION {knows} RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {migrations()[-1].version}'"
        )
        connection.execute(f"REVOKE EXECUTE ON FUNCTION {knows} FROM PUBLIC")
    return True


def _is_installed(connection: Any) -> bool:
    return bool(connection.execute(HAS_FUNCTIONS, ([functions.mark()],)).fetchone())
