"""The pages about Postgres are true: their commands and their SQL work one after another."""

import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import psycopg
import pytest
from databases import Postgres
from pages import PROJECT, Page, blocks
from test_readme import python

from redisjobs import State
from redisjobs.drivers.postgres.remarks import warning_texts
from redisjobs.local import server
from redisjobs.sync import JobQueue

PAGE = Page(PROJECT / "docs/how-to/push-within-a-transaction.md")
QUEUE = Page(PROJECT / "docs/how-to/use-postgres.md")


def test_its_file_is_an_example() -> None:
    assert PAGE.files["orders.py"] == (PROJECT / "examples/postgres/orders.py").read_text("utf-8")


def said_by(page: Page, folder: Path, **variables: str) -> str:
    """What the commands of a page's first block print; the servers of `redisjobs dev` are there already."""
    for name, code in page.files.items():
        (folder / name).write_text(code)
    printed = ""
    for command in blocks(page.text, "console")[0].splitlines():
        words = shlex.split(command.removeprefix("$ "), comments=True)
        if words[0] == "export":
            name, _, value = words[1].partition("=$")
            variables[name] = variables[value]
        elif words[:2] != ["redisjobs", "dev"]:
            words = [Template(word).safe_substitute(variables) for word in words]
            words = words[1:] if words[0] == "python" else ["-m", *words]
            printed += python(*words, folder=folder, **variables)
    return printed


@pytest.mark.timeout(240)
def test_its_commands_work_one_after_another(tmp_path: Path, database: str) -> None:
    with server.start() as redis:
        printed = said_by(PAGE, tmp_path, REDISJOBS_URL=redis.url, REDISJOBS_DATABASE=database)

    assert "None\n" in printed
    assert "pushed 1 job; 0 rows left; 0 rows set aside" in printed
    assert "mail for order 7" in printed


@pytest.mark.timeout(240)
def test_a_queue_in_postgres_is_set_up_by_the_commands_of_its_page(tmp_path: Path, postgres: Postgres) -> None:
    with postgres.database(migrated=False) as database:
        printed = said_by(QUEUE, tmp_path, REDISJOBS_DATABASE=database)

    assert "migrated to 0002 jobs" in printed
    assert "invoice for order 7" in printed


def test_a_push_within_a_transaction_of_the_queues_database_is_as_its_page_says(postgres: Postgres) -> None:
    (shown,) = (code for code in blocks(QUEUE.text, "text") if "within=" in code)
    with postgres.database() as database, JobQueue(database, name="invoices") as queue:

        @queue.job
        def write_invoice(order: int) -> None:
            """Write it."""

        with psycopg.connect(database) as connection:
            connection.execute("CREATE TABLE orders (number int)")
        names: dict[str, Any] = {"psycopg": psycopg, "database": database, "write_invoice": write_invoice}
        exec(shown, names)

        assert names["job"].added
        info = queue.get(names["job"])
        assert info
        assert info.state is State.READY


def test_the_page_has_the_words_of_each_warning_of_a_worker() -> None:
    section = QUEUE.text.split("## Read a worker's warnings")[1].split("\n## ")[0]
    shown = [re.escape(each).replace("…", ".+") for each in re.findall(r"`([^`]+)`", section)]
    facts = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit", "autovacuum"), "off") | {
        "track_counts": "on",
        "server_version": "17.0",
        "replica": False,
        "replicas": 0,
        "blind": None,
        "pid": 2,
        "jobs": [1, 10**7, 10**9],
        "unvacuumed": ["jobs"],
        "frozen": 2 * 10**9,
        "superuser": "postgres",
        "pins": [["session", "pid 7", 90, "idle", 5]],
        "slots": [["old", 2 * 10**9]],
        "refused": [],
        "rings": [["turns_0", 10**8, 3600]],
        "sessions": 95,
        "max_sessions": 100,
    }

    warnings = warning_texts(facts, is_shared=True)

    assert [text for text in warnings if not any(re.search(each, text) for each in shown)] == []
    assert [each for each in shown if not any(re.search(each, text) for text in warnings)] == []


def test_its_sql_does_what_it_says(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        waiting, push, failed, again = (
            shlex.split(command)[3] for command in PAGE.commands if command.startswith("psql ")
        )
        connection.execute(push.encode())
        assert connection.execute(waiting.encode()).fetchall()[0][:2] == ("orders", 1)
        connection.execute("UPDATE redisjobs.outbox SET failed_at = now(), error = 'no'")
        ((_, queue, *_),) = connection.execute(failed.encode()).fetchall()
        assert queue == "orders"
        connection.execute(again.encode())
        assert connection.execute(failed.encode()).fetchall() == []
        assert connection.execute("SELECT name, parameters FROM redisjobs.outbox").fetchall() == [
            ("send_mail", {"order": 8})
        ]
