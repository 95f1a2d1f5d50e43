"""The benchmark of queues on Postgres: what is asked, what is shown, and what is read off a server."""

import sys
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from benchmarks import postgres
from benchmarks.postgres import arguments
from benchmarks.postgres_systems import ON_POSTGRES, OnPostgres, PostgresSession
from benchmarks.report import DASH, Run
from benchmarks.systems import PEERS, Failed

TABLE = "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute('create table jobs (id int)')"
SYSTEM = OnPostgres(
    "a",
    "unknown",
    (),
    "a",
    "",
    lambda programs, processes, concurrency: [],
    schema=lambda programs: [sys.executable, "-c", TABLE, "URL"],
)


@pytest.fixture
def session() -> Iterator[PostgresSession]:
    with PostgresSession(SYSTEM) as session:
        yield session


def run_in(session: PostgresSession, *statements: str) -> None:
    with psycopg.connect(session.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_each_system_has_its_program() -> None:
    assert all((PEERS / f"{system.module}_jobs.py").is_file() for system in ON_POSTGRES.values())


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], [*ON_POSTGRES]),
        (["--peers", "awa"], ["redisjobs", "awa"]),
        (["--peers", ""], ["redisjobs"]),
    ],
)
def test_redisjobs_is_measured_beside_the_peers_that_were_asked_for(words: list[str], names: list[str]) -> None:
    assert [system.name for system in arguments(words).systems] == names


@pytest.mark.parametrize(
    ("words", "said"), [(["--peers", "celery"], "no such peer: celery"), (["--held", "-1"], "below 0")]
)
def test_what_can_not_be_measured_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert said in capsys.readouterr().err


def test_the_table_has_medians_and_the_median_of_the_rounds_ratios() -> None:
    run = Run("2026-01-02", quick=False, rounds=3, machine="M", server="P")
    run.versions = {"redisjobs": "1", "awa": "2"}
    run.samples = {"drain": {"redisjobs": [100, 300, 500], "awa": [50, 100, 500]}, "held_kept": {"awa": [0.5]}}

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in postgres.text(run).splitlines()]

    assert rows[0] == ["", "redisjobs", "awa", "redisjobs ÷ awa"]
    assert rows[2] == ["drain, 1 worker process, jobs/s", f"300 (100{DASH}500)", f"100 (50{DASH}500)", "2"]
    assert rows[3] == ["held snapshot: last window, of the first, %", DASH, "50", DASH]


@pytest.mark.slow
def test_what_failed_to_make_its_tables_is_not_measured() -> None:
    broken = replace(SYSTEM, schema=lambda programs: [sys.executable, "-c", "raise SystemExit('no such tables')"])

    with pytest.raises(Failed, match="its tables can't be made: no such tables"), PostgresSession(broken):
        pass


@pytest.mark.slow
def test_statements_are_counted_as_clients_send_them(session: PostgresSession) -> None:
    run_in(session, "select 1")
    with session.statements() as said:
        run_in(session, "select 2", "select 3")
    run_in(session, "select 4")

    assert [line.rpartition(": ")[2] for line in said] == ["select 2", "select 3"]


@pytest.mark.slow
def test_a_held_snapshot_keeps_dead_rows(session: PostgresSession) -> None:
    with session.snapshot():
        run_in(session, "insert into jobs select generate_series(1, 1000)", "delete from jobs")
        run_in(session, "vacuum jobs")
        assert session.dead_rows() >= 1000  # an estimate
    run_in(session, "vacuum jobs")
    assert session.dead_rows() == 0


@pytest.mark.slow
def test_sizes_are_of_tables_and_indexes(session: PostgresSession) -> None:
    assert session.sizes() == (0, 0)
    run_in(session, "insert into jobs select generate_series(1, 1000)", "create index on jobs (id)")

    tables, indexes = session.sizes()

    assert tables >= 1000 * 28
    assert indexes >= 1000 * 16
