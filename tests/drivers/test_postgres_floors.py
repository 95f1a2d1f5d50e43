"""Floors: a worker's claims pass over what is gone, and miss no job."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from databases import POSTGRES, Postgres, start_postgres

from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.model.driver import Consumer
from redisjobs.model.job import JobName
from redisjobs.model.transitions import Ack
from redisjobs.sync import JobQueue

ANY = JobName("a", dict[str, str])
pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(params=POSTGRES)
def quiet(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server of this test alone: transactions of others, even in other databases, may hide what is wrong."""
    server = start_postgres(request.param)
    yield server
    server.end()


@pytest.fixture
async def worker(quiet: Postgres, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Consumer]:
    """A worker that looks for new floors in each exchange."""
    monkeypatch.setattr(working, "_MARK_EVERY", 0)
    driver = PostgresDriver(quiet.shared(), "q")
    consumer = driver.consumer("w", lease=1e6, max_deliveries=3)
    await consumer.open()
    yield consumer
    await consumer.aclose()
    await driver.aclose()


@pytest.fixture
def other(quiet: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(quiet.shared(), autocommit=True) as connection:
        yield connection


async def claim(worker: Consumer, times: int = 1) -> list[str]:
    """Claim in several exchanges, and settle what the first ones got; the ids."""
    got = list[str]()
    for _ in range(times):
        leases = (await worker.exchange([], 10)).leases
        got += [lease.job_id for lease in leases]
        await worker.exchange([(lease, Ack()) for lease in leases], None)
    return got


async def test_the_first_job_of_all_is_claimed_by_a_worker_that_was_there_before(
    quiet: Postgres, worker: Consumer
) -> None:
    assert await claim(worker, 4) == []
    with JobQueue(quiet.shared(), "q") as queue:
        queue.push({}, ANY, job_id="first")
    assert await claim(worker) == ["first"]


async def test_a_job_whose_transaction_stays_open_is_claimed_after_the_commit(
    quiet: Postgres, worker: Consumer
) -> None:
    with JobQueue(quiet.shared(), "q") as queue, psycopg.connect(quiet.shared()) as connection:
        queue.push({}, ANY, job_id="before")
        assert await claim(worker, 4) == ["before"]
        queue.push({}, ANY, job_id="late", within=connection)
        assert await claim(worker, 4) == []
        connection.commit()
        assert await claim(worker) == ["late"]


async def test_a_worker_claims_on_a_server_that_has_lost_the_last_places_in_line(
    quiet: Postgres, worker: Consumer, other: psycopg.Connection[Any]
) -> None:
    """As a replica has that takes over, or a backup that was restored."""
    with JobQueue(quiet.shared(), "q") as queue:
        for number in range(5):
            queue.push({}, ANY, job_id=f"{number}")
        assert await claim(worker, 4) == ["0", "1", "2", "3", "4"]
        other.execute("select setval('redisjobs.line', 2)")
        queue.push({}, ANY, job_id="again")
    assert "again" in await claim(worker, 3)
