"""What an operator reads costs Postgres a bounded number of rows, found by indexes, however many there are."""

import re
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from postgres_store import PostgresStore

from redisjobs.drivers.postgres import functions
from redisjobs.drivers.postgres.calls import change_call, query_call
from redisjobs.errors import DriverError
from redisjobs.model.health import Audit
from redisjobs.model.job import State
from redisjobs.model.queries import Count, Filter, Find, GetBacklog, GroupDead, Query, Scan
from redisjobs.model.transitions import NewJob
from redisjobs.model.why import Ahead

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PLACES = ["ready", "returned", "alone", "parked", "line", "delayed", "running", "dead", "completed", "cancelled"]
EACH = 10_000  # jobs in each place

_FILL = """
insert into redisjobs.jobs (seq, queue, id, name, parameters, extra, rank, place, since_ms, due_ms, worker, kind)
select nextval('redisjobs.line'), %(queue)s, place || n, 'Work' || n %% 3, '{}',
  case when place = 'dead' then jsonb_build_object('reason', 'failed', 'fingerprint', 'kind' || n %% 5) end,
  n %% 3, place, extract(epoch from now()) * 1000, case when place = 'delayed' then 4102444800000 + n end,
  case when place = 'running' then 'w' || n %% 10 end, case when place = 'dead' then 'kind' || n %% 5 end
from unnest(%(places)s::text[]) place, generate_series(1, %(each)s) n
"""

BOUNDED: list[Query[Any] | Audit] = [
    *(Find(f"{place}5") for place in PLACES),
    *(Scan(state) for state in State if state is not State.RUNNING),
    *(Scan(state, after="1 300") for state in (State.READY, State.DELAYED)),
    Scan(State.READY, Filter(text="nowhere")),
    Scan(State.DEAD, Filter(fingerprint="kind3")),
    Scan(State.DEAD, Filter(reason="other", worker="none", older_ms=1)),
    *(Ahead(f"{place}{EACH}") for place in PLACES if place != "dead"),
    GetBacklog(),
    *(Audit(f"{part} ") for part in ("jobs", "lines", "held", "uniques", "shares", "buckets", "workers")),
    Audit("jobs running5000"),
]
WHOLE = {Count(): EACH, GroupDead(): EACH // 5, Ahead("dead1"): EACH // 5}
"""These count jobs in an index; and how many they find there."""


@pytest.fixture(scope="module")
def filled(postgres: Any) -> Iterator["psycopg.Connection[Any]"]:
    """A connection to a database with a queue of 100,000 jobs, which explains what its functions do."""
    with postgres.database() as url, psycopg.connect(url, autocommit=True) as connection:
        for each in (*BOUNDED, *WHOLE):
            ask(connection, each)  # the plans are made while the tables are empty, and stay
        connection.execute(_FILL, {"queue": "q", "places": PLACES, "each": EACH})
        connection.execute("vacuum redisjobs.jobs")
        connection.execute("load 'auto_explain'")
        for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_analyze = on"):
            connection.execute(f"set auto_explain.{setting}".encode())
        connection.execute("set client_min_messages = log")
        yield connection


def ask(connection: "psycopg.Connection[Any]", asked: Any) -> None:
    call = query_call(asked) if isinstance(asked, Query) else change_call(asked)
    cursor = psycopg.RawCursor(connection)
    cursor.execute(functions.statement(call.function), ("q", None, *call.arguments)).fetchall()


def plan_of(connection: "psycopg.Connection[Any]", asked: Any) -> str:
    """What the server did for a question, statement by statement."""
    plans: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        plans.append(diagnostic.message_primary or "")

    connection.add_notice_handler(note)
    ask(connection, asked)
    connection.remove_notice_handler(note)
    assert any("redisjobs" in plan for plan in plans)
    return "\n".join(plans)


@pytest.mark.parametrize("asked", BOUNDED, ids=str)
def test_a_question_looks_at_no_more_rows_in_a_large_queue(
    filled: "psycopg.Connection[Any]", asked: Query[Any]
) -> None:
    plan = plan_of(filled, asked)
    looked = [int(rows) for rows in re.findall(r"actual time=\S+ rows=(\d+)", plan)]

    assert "Seq Scan" not in plan
    assert max(looked) <= 4 * 501
    assert sum(map(int, re.findall(r"Rows Removed by [^:]+: (\d+)", plan))) <= 501


@pytest.mark.parametrize(("asked", "count"), WHOLE.items(), ids=map(str, WHOLE))
def test_jobs_are_counted_in_indexes_alone(
    filled: "psycopg.Connection[Any]", asked: Query[Any], count: int
) -> None:
    plan = plan_of(filled, asked)

    assert "Seq Scan" not in plan
    assert re.search(rf"rows={count}(\.00)? ", plan)  # PostgreSQL 18 tells fractions
    assert {int(fetches) for fetches in re.findall(r"Heap Fetches: (\d+)", plan)} == {0}


# What is asked for


async def test_a_step_of_a_scan_ends_after_a_megabyte(postgres_store: PostgresStore) -> None:
    large = '{"text":"' + "x" * 400_000 + '"}'
    jobs = [NewJob(str(number), ["name", "Work", "parameters", large]) for number in range(5)]
    async with aclosing(postgres_store.driver) as driver:
        for job in jobs:
            await driver.push([job], repeated=False)
        after, steps = "", list[list[str]]()
        while after or not steps:
            step = await driver.read(Scan(State.READY, after=after))
            steps.append([row.job_id for row in step.rows])
            after = step.after
    assert steps == [["0", "1"], ["2", "3"], ["4"]]


@pytest.mark.parametrize("after", ["x", "1", "1 x", "1 2 3", "1 99999999999999999999"])
async def test_a_place_where_no_scan_ends_is_refused(postgres_store: PostgresStore, after: str) -> None:
    async with aclosing(postgres_store.driver) as driver:
        with pytest.raises(DriverError, match="no scan ends there"):
            await driver.read(Scan(State.READY, after=after))
