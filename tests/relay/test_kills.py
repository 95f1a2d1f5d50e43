"""Producers and relays that are killed at any point: data and job both or neither, and each job once."""

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import anyio
import psycopg
import pytest
from databases import POSTGRES_ENGINES, Postgres, start_postgres
from processes import Numbered
from store import RedisStore, eventually

from redisjobs import JobQueue, Worker
from redisjobs.control.relay.relay import Relayer

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]

TRIES = int(os.environ.get("REDISJOBS_TRIES", "60"))
"""How many producers are killed. Of relays a twentieth is, over 20 times as many rows."""
SEED = int(os.environ.get("REDISJOBS_SEED", random.randrange(10**6)))


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of this test, since a killed producer leaves sessions for a moment."""
    if not POSTGRES_ENGINES:
        pytest.skip("there is no PostgreSQL")
    running = start_postgres(POSTGRES_ENGINES[0])
    yield running
    running.end()


@pytest.fixture
def outbox(server: Postgres) -> Iterator[str]:
    with server.database() as url:
        yield url


def processes(*arguments: object) -> "Popen[bytes]":
    command = [sys.executable, str(Path(__file__).with_name("processes.py")), *map(str, arguments)]
    return Popen(command, stderr=DEVNULL if arguments[0] == "relays" else None)


def ask(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


@pytest.mark.parametrize("table", ["outbox", "jobs"])
async def test_a_producer_that_is_killed_at_any_statement_leaves_row_and_job_or_neither(
    table: str, outbox: str
) -> None:
    queue_url = outbox if table == "jobs" else "redis://127.0.0.1:1/0"  # a push to an outbox asks no server
    ask(outbox, "CREATE TABLE orders (number int PRIMARY KEY, paid bool)")

    with processes("producers", outbox, queue_url, TRIES, SEED) as killing:
        await anyio.to_thread.run_sync(killing.wait)
    assert killing.returncode == 0
    sessions = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await eventually(lambda: not ask(outbox, sessions), within=20)

    orders = {number for (number,) in ask(outbox, "SELECT number FROM orders WHERE number >= 0")}
    numbers = f"SELECT (parameters::json->>'number')::int FROM redisjobs.{table}"
    pushed = [number for (number,) in ask(outbox, numbers)]
    assert sorted(number for number in pushed if number >= 0) == sorted(orders), f"seed {SEED}"
    assert 0 < len(orders) < TRIES


async def test_each_row_is_pushed_once_though_relays_are_killed_and_frozen(
    outbox: str, redis_store: RedisStore
) -> None:
    kills, rows = max(5, TRIES // 20), 20 * TRIES
    ran = Counter[int]()
    queue = JobQueue(redis_store.url, redis_store.queue_name)

    @queue.register(Numbered)
    async def count(parameters: dict[str, int]) -> None:
        ran[parameters["number"]] += 1

    worker = Worker(queue)
    async with queue, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        arguments = (outbox, redis_store.url, redis_store.queue_name, kills, rows, SEED)
        with processes("relays", *arguments) as killing:
            await anyio.to_thread.run_sync(killing.wait)
        assert killing.returncode == 0
        await Relayer(JobQueue(redis_store.url, redis_store.queue_name), outbox).run_once()
        await eventually(lambda: len(ran) == rows, within=30)
        counts = await queue.control.counts()
        worker.stop()

    assert set(ran.values()) == {1}, f"seed {SEED}"
    assert counts.totals["pushed"] == rows
    assert ask(outbox, "SELECT count(*) FROM redisjobs.outbox") == [(0,)]
