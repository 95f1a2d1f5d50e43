"""Every line for psql that is written down works on a live queue, and shows something."""

import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from anyio.from_thread import start_blocking_portal
from pages import PAGES, PROJECT
from psycopg.conninfo import conninfo_to_dict

from redisjobs import Fail, JobContext, Keep, Priority, Retention, Schedule, Worker
from redisjobs.drivers.postgres import functions, schema
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.model.changes import GetStatus, SetLimit
from redisjobs.model.moving import Take
from redisjobs.model.queries import Find
from redisjobs.model.transitions import After, NewJob
from redisjobs.sync import JobQueue

pytestmark = pytest.mark.slow

_TABLES = PROJECT / "docs/reference/postgres-tables.md"
_MAY_BE_EMPTY = ("pg_replication_slots", "pg_prepared_xacts", "drop routine", "locktype = 'advisory'")
"""A server in order, with one release, has none of these; and locks for a moment only."""


_OF_RELEASES = "select proname from pg_proc where proname ~ '_[0-9a-f]{10}$' order by 1"


def documented() -> list[str]:
    """Every command of the pages that runs psql; test_postgres_docs.py has those on the outbox."""
    found = re.findall(r"^(?:\$ )?(psql -.+)$", "".join(page.text for page in PAGES), re.MULTILINE)
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def live(postgres: Any) -> Iterator[str]:
    """The URL of a database with the queue `emails`: with jobs in every state, and a worker that runs one."""
    started, ended = threading.Event(), threading.Event()
    kept = Retention(completed=Keep(count=100), cancelled=Keep(count=100))
    with (
        postgres.database() as url,
        JobQueue(url, name="emails", retention=kept) as queue,
        start_blocking_portal() as portal,
    ):

        @queue.job(name="Run")
        def run(long: bool = False) -> dict[str, int]:
            if long:
                started.set()
                ended.wait(60)
            return {"pages": 3}

        @queue.job(name="Break")
        def break_down() -> None:
            raise Fail("no such mailbox")

        @queue.job(name="Approve")
        async def approve(context: JobContext) -> str:
            await context.step("charge", dict, amount=3)
            context.emit("charged")
            return str(await context.wait_for("approved"))

        @queue.job(name="Split")
        async def split(context: JobContext) -> None:
            await context.run_all([run.prepare(), approve.prepare()])

        approve.options(job_id="invoice-45").push()
        split.options(job_id="invoice-46").push()
        run.options(job_id="invoice-44", keep_result=3600).push()
        break_down.options(job_id="invoice-41").push()
        portal.call(lambda: Worker(queue).run(until_idle=True))
        queue.signal("invoice-45", "refused", "too late")
        run.options(job_id="runs", unique="joe", priority=Priority.HIGH).push(long=True)
        worker = Worker(queue, concurrency=1)
        ran = portal.start_task_soon(worker.run)
        assert started.wait(30)
        run.options(job_id="invoice-42").push()
        run.options(job_id="invoice-43", delay=3600).push()
        queue.schedules.put("nightly", {}, Schedule.daily(hour=4), job=queue.definition("Run").name)
        queue.control.pause("Break")
        portal.call(wait, url)
        yield url
        ended.set()
        portal.call(worker.stop)
        ran.result(30)


async def wait(url: str) -> None:
    """A process waits for a job; another job has said how far it is, jobs are limited, a worker was lost, a job
    is on its way to another store.
    """
    async with aclosing(PostgresDriver(url, "emails")) as driver:
        await driver.change(GetStatus(["invoice-42"], "4242-9f3c2a1b"))
        await driver.change(SetLimit("Run", "max_concurrency=5"))
        await driver.push(
            [NewJob("moving", ["name", "Run", "parameters", "{}"], due=After(3_600_000))], repeated=False
        )
        row = await driver.read(Find("moving"))
        assert row
        await driver.change(Take([row]))
    with psycopg.connect(url, autocommit=True) as admin:
        for table, values in (
            ("cancelling", "'gone'"),
            ("progress", "'runs', '{\"fraction\":0.5}', 4102444800000"),
            ("fenced", "'web-2:17:5d2f01aa', 4102444800000"),
            ("refused", "'5b0c2f2e-9a50-4c7e-8f55-0a8d6c8d7f0e', '01732438800000000000'"),
        ):
            admin.execute(f"insert into redisjobs.{table} values ('emails', {values})".encode())


def by_psql(url: str, command: str) -> int:
    """Run the very words of the page in a shell; how many lines psql prints."""
    where = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    given = conninfo_to_dict(url)
    settings = {name: str(given[key]) for key, name in where.items() if key in given}
    done = subprocess.run(
        ["bash", "-c", command.replace("psql ", "psql -Xtv ON_ERROR_STOP=1 ", 1)],
        env={**os.environ, **settings},
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return len(done.stdout.split())


def by_the_same_words(url: str, command: str) -> int:
    """How many rows the server has for the same words; for a machine without psql."""
    with psycopg.connect(url, autocommit=True) as connection:
        return len(connection.execute(shlex.split(command)[-1].encode()).fetchall())


WAYS = [by_the_same_words, by_psql] if shutil.which("psql") else [by_the_same_words]


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("command", documented())
def test_a_documented_line_shows_something(live: str, run: Callable[[str, str], int], command: str) -> None:
    shown = run(live, command)

    assert shown or any(view in command for view in _MAY_BE_EMPTY)


def test_the_line_about_older_releases_drops_their_functions_and_no_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [each for each in documented() if "drop routine" in each]
    newer = "create function redisjobs_f._answer() returns int language sql as 'select 2';"
    with psycopg.connect(database, autocommit=True) as connection:
        before = connection.execute(_OF_RELEASES).fetchall()
        monkeypatch.setattr(functions, "_text", lambda: newer)
        assert [*schema.migrate(database)] == [f"installed the functions of release {functions.release()}"]
        for (statement,) in connection.execute(shlex.split(line)[-1].encode()).fetchall():
            connection.execute(statement)
        after = connection.execute(_OF_RELEASES).fetchall()

    assert len(before) > 200
    assert after == [(f"_answer_{functions.release()}",), (f"_knows_{functions.release()}",)]


def test_the_page_of_the_tables_has_every_table_and_a_line_for_each(database: str) -> None:
    page = _TABLES.read_text("utf-8")
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "select table_name from information_schema.columns"
            " where table_schema = 'redisjobs' and column_name = 'queue' and table_name <> 'outbox'"
        )
        tables = {table for (table,) in found}
    first_column = "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    named = {*re.findall(r"`(\w+)`", first_column)}

    assert named | {*re.findall(r"`((?:ledger|turns)_\d)`", page)} == tables
    assert {*re.findall(r"redisjobs\.(\w+)", "".join(documented()))} >= named
