"""The schema of a database: made once by many hosts, refused by a release that it does not fit."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import Postgres

import redisjobs.sync
from redisjobs import JobName
from redisjobs.drivers.postgres import functions, schema
from redisjobs.drivers.postgres.schema import Migration, check, migrate, pending
from redisjobs.errors import DriverError, Forbidden, Unavailable
from redisjobs.model.driver import OtherVersion

Add = JobName("Add", dict[str, Any])
FIRST = schema.migrations()[0]
TABLE = Migration(1, "table", "CREATE TABLE redisjobs.things (at int);")
INDEX = Migration(
    2,
    "index",
    """-- not in a transaction
DROP INDEX CONCURRENTLY IF EXISTS redisjobs.things_at;
CREATE INDEX CONCURRENTLY things_at ON redisjobs.things (at);
""",
)


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[str]:
    with postgres.database(migrated=False) as url:
        yield url


def ask(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def versions(url: str) -> list[int]:
    return [version for (version,) in ask(url, "SELECT version FROM redisjobs.migrations ORDER BY 1")]


def test_a_migration_runs_once(empty: str) -> None:
    assert [*migrate(empty)][: len(schema.migrations())] == [f"migrated to {each}" for each in schema.migrations()]
    assert [*migrate(empty)] == []
    assert versions(empty) == [each.version for each in schema.migrations()]


def test_no_index_compares_texts_by_the_collation_of_the_database(postgres: Postgres) -> None:
    with postgres.database() as url:
        others = ask(
            url,
            """SELECT indexrelid::regclass::text FROM pg_index, unnest(indcollation) used(id)
               WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'redisjobs'::regnamespace)
                 AND used.id NOT IN (0, '"C"'::regcollation)""",
        )
    assert others == []


def test_many_hosts_may_migrate_at_once(empty: str) -> None:
    together = threading.Barrier(8)

    def host(_: int) -> list[str]:
        together.wait()
        return [*migrate(empty, [FIRST, TABLE, INDEX])]

    with ThreadPoolExecutor(8) as pool:
        done = [line for lines in pool.map(host, range(8)) for line in lines if "function" not in line]

    assert sorted(done) == ["migrated to 0000 migrations", "migrated to 0001 table", "migrated to 0002 index"]
    assert ask(empty, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'redisjobs.things_at'::regclass") == [
        (True,)
    ]


def test_an_interrupted_migration_has_done_nothing_and_can_be_run_again(empty: str) -> None:
    broken = Migration(1, "table", "CREATE TABLE redisjobs.things (at int); SELECT 1 / 0;")

    with pytest.raises(DriverError, match="division by zero"):
        list(migrate(empty, [FIRST, broken]))
    assert versions(empty) == [0]

    assert next(migrate(empty, [FIRST, TABLE])) == "migrated to 0001 table"


def test_an_index_whose_making_was_interrupted_is_made_again(empty: str) -> None:
    list(migrate(empty, [FIRST, TABLE]))
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("INSERT INTO redisjobs.things VALUES (1), (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY things_at ON redisjobs.things (at)")

    list(migrate(empty, [FIRST, TABLE, INDEX]))

    assert ask(empty, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'redisjobs.things_at'::regclass") == [
        (True,)
    ]


def test_a_host_that_is_killed_in_a_migration_blocks_no_other(empty: str) -> None:
    code = f"""
import redisjobs.sync
from redisjobs import JobName
from redisjobs.drivers.postgres import functions, schema
slow = schema.Migration(1, "slow", "CREATE TABLE redisjobs.things (at int); SELECT pg_sleep(600);")
list(schema.migrate({empty!r}, [schema.migrations()[0], slow]))
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as host:
        sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        while not (found := ask(empty, sleeping)):
            assert host.poll() is None
        host.send_signal(signal.SIGKILL)
    ask(empty, f"SELECT pg_terminate_backend({found[0][0]})")  # it would notice when its statement ends

    assert next(migrate(empty, [FIRST, TABLE])) == "migrated to 0001 table"


def test_a_newer_schema_is_refused_by_an_older_release(empty: str) -> None:
    newest = schema.migrations()[-1].version
    newer = Migration(newest + 1, "later", "SELECT 1")
    list(migrate(empty, [*schema.migrations(), newer]))

    for refused in (migrate(empty), pending(empty)):
        with pytest.raises(
            OtherVersion, match=f"version {newest + 1}, and this release knows versions up to {newest}"
        ):
            list(refused)
    with pytest.raises(OtherVersion, match="use the newer release"):
        check(ask(empty, schema.APPLIED))


def test_a_newer_schema_that_works_with_an_older_release_is_accepted_by_it(empty: str) -> None:
    newest = schema.migrations()[-1].version
    newer = Migration(newest + 1, "later", f"-- works with {newest:04}\nSELECT 1")
    list(migrate(empty, [*schema.migrations(), newer]))

    assert [*migrate(empty)] == []
    check(ask(empty, schema.APPLIED))


def test_an_older_or_missing_schema_asks_for_the_migration(empty: str) -> None:
    with pytest.raises(OtherVersion, match="no schema redisjobs: run `redisjobs migrate --database URL`"):
        check([])

    list(migrate(empty, [FIRST]))

    with pytest.raises(OtherVersion, match="lacks 0001 outbox, which this release needs: run `redisjobs migrate"):
        check(ask(empty, schema.APPLIED))


def test_pending_sql_is_what_would_run_and_runs_nothing(empty: str) -> None:
    text = "\n".join(pending(empty))

    assert text.startswith("-- 0000 migrations")
    assert "CREATE TABLE redisjobs.outbox" in text
    assert ask(empty, "SELECT to_regnamespace('redisjobs')") == [(None,)]


def test_printed_sql_migrates_as_the_command_does(empty: str) -> None:
    list(migrate(empty, [FIRST]))
    with psycopg.connect(empty, autocommit=True) as connection:
        for text in pending(empty):
            connection.execute(text.encode())

    check(ask(empty, schema.APPLIED), [functions.mark()])
    assert [*migrate(empty)] == [*pending(empty)] == []
    ((knows,),) = ask(empty, r"SELECT count(*) FROM pg_proc WHERE proname ~ '^_knows_'")
    assert knows == 1


def test_a_migration_that_waits_for_a_table_says_for_what_and_blocks_no_one(empty: str) -> None:
    list(migrate(empty, [FIRST, TABLE]))
    altered = Migration(2, "altered", "ALTER TABLE redisjobs.things ADD COLUMN more int;")
    with psycopg.connect(f"{empty}?application_name=report") as report:
        report.execute("SELECT * FROM redisjobs.things")
        steps = migrate(empty, [FIRST, TABLE, altered])
        said = next(steps)
        assert re.search(r"^0002 altered waits for transactions .*: pid \d+ \(.* report idle in trans", said)
        ask(empty, "INSERT INTO redisjobs.things VALUES (1) RETURNING 1")  # waits for no one
    assert "migrated to 0002 altered" in [*steps]


def test_a_table_that_was_dropped_is_named_with_what_to_do(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE redisjobs.jobs CASCADE")

    with (
        redisjobs.sync.JobQueue(database, "q") as queue,
        pytest.raises(DriverError, match=r"run `redisjobs migrate .* says so if .* a table was dropped"),
    ):
        queue.push({}, Add)
    for refused in (migrate(database), pending(database)):
        with pytest.raises(DriverError, match=r"redisjobs\.jobs is gone: .*drop schema redisjobs cascade"):
            list(refused)


def test_a_role_without_rights_is_refused_and_one_with_its_own_schema_is_not(
    postgres: Postgres, empty: str
) -> None:
    role = f"role_{empty.rpartition('_')[2]}"
    postgres.run(f"CREATE ROLE {role} LOGIN")
    url = postgres.url_of(empty.rpartition("/")[2], role)
    try:
        with pytest.raises(Forbidden, match="permission denied for database"):
            list(migrate(url))

        with psycopg.connect(empty, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA redisjobs AUTHORIZATION {role}".encode())
        assert len([*migrate(url)]) >= len(schema.migrations())
    finally:
        with psycopg.connect(empty, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_password_is_shown_nowhere() -> None:
    for url in ("postgresql://joe:secret@127.0.0.1:1/x", "postgresql://joe:secret@127.0.0.1/x?oops=1&a"):
        with pytest.raises(DriverError) as caught:
            list(migrate(url))
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="is no database: give postgresql://") as wrong:
        list(migrate("mysql://joe:secret@host/x"))
    assert "secret" not in str(wrong.value)


def test_a_server_that_is_away_is_said_to_be() -> None:
    with pytest.raises(Unavailable, match=r"Postgres at postgresql://127.0.0.1:1/x is unavailable"):
        list(migrate("postgresql://127.0.0.1:1/x"))


def test_functions_of_two_releases_live_side_by_side(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (1, 2):
        text = f"""create function redisjobs_f._answer() returns int language sql as 'select redisjobs_f.inner()';
            create function redisjobs_f.inner() returns int language sql as 'select {answer}';"""
        monkeypatch.setattr(functions, "_text", lambda text=text: text)
        assert f"installed the functions of release {functions.release()}" in [*migrate(empty)]
        assert [*migrate(empty)] == []
        assert ask(empty, f"SELECT redisjobs.{functions.mark()}()") == [(answer,)]
    assert ask(empty, r"SELECT count(*) FROM pg_proc WHERE proname LIKE '\_answer%'") == [(2,)]


def test_a_schema_without_this_releases_functions_asks_for_the_migration(empty: str) -> None:
    list(migrate(empty))

    with pytest.raises(OtherVersion, match="lacks functions that this release needs: run `redisjobs migrate"):
        check(ask(empty, schema.APPLIED), [])
    check(ask(empty, schema.APPLIED), [functions.mark()])


def test_a_migration_that_older_releases_do_not_know_ends_their_calls_and_one_that_says_so_does_not(
    database: str,
) -> None:
    known = schema.migrations()
    fitting = Migration(8_000, "fitting", f"-- works with {known[-1].version:04}\nSELECT 1")
    with redisjobs.sync.JobQueue(database, "q") as queue:
        list(migrate(database, [*known, fitting]))
        assert queue.push({}, Add).added

        list(migrate(database, [*known, fitting, Migration(9_000, "changed", "SELECT 1")]))
        with pytest.raises(DriverError, match="run `redisjobs migrate"):
            queue.push({}, Add)
    with (
        redisjobs.sync.JobQueue(database, "q") as queue,
        pytest.raises(DriverError, match="run `redisjobs migrate"),
    ):
        queue.control.counts()
    with pytest.raises(OtherVersion, match="has version 9000, and this release knows versions up to"):
        list(migrate(database))
