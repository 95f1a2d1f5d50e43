"""Floors: a worker's claims pass over what is gone, and miss no job."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from databases import POSTGRES, Postgres, start_postgres

from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.consumer import PostgresConsumer
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.errors import Unavailable
from redisjobs.model.driver import Consumer
from redisjobs.model.job import JobName
from redisjobs.model.transitions import (
    Ack,
    After,
    Release,
    Reply,
    ReportProgress,
    Result,
    RetryLater,
    Settlement,
)
from redisjobs.sync import JobQueue

ANY = JobName("a", dict[str, str])
pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(params=POSTGRES)
def quiet(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server of this test alone: transactions of others, even in other databases, may hide what is wrong."""
    server = start_postgres(request.param, "-c", "max_prepared_transactions=2")
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


async def test_a_worker_that_lost_its_session_looks_for_jobs_from_the_start(
    quiet: Postgres, worker: Consumer, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash may take back claims that were answered, and a backup places in line: also for a busy worker."""
    with JobQueue(quiet.shared(), "q") as queue:
        for number in range(5):
            queue.push({}, ANY, job_id=f"{number}")
        assert len(await claim(worker, 4)) == 5
        monkeypatch.setattr(working, "_MARK_EVERY", 1e6)  # it learns of no new floors
        other.execute("select setval('redisjobs.line', 1)")
        other.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    with JobQueue(quiet.shared(), "q") as queue:
        queue.push({}, ANY, job_id="again")
    got = list[str]()
    for _ in range(4):
        with suppress(Unavailable):
            got += await claim(worker)
    assert got == ["again"]


async def test_another_server_behind_a_pooler_ignores_what_a_worker_knew(
    quiet: Postgres, worker: Consumer, other: psycopg.Connection[Any]
) -> None:
    floors = working.Floors(starts=[0, 99, 0], floors=[0, 99, 0], server=1)
    with JobQueue(quiet.shared(), "q") as queue, closing(SyncConnection(Target(quiet.shared()), "q")) as line:
        queue.push({}, ANY, job_id="a")
        (lease,) = line.run(working.read(floors, "w", 9)) or []
        queue.push({}, ANY, job_id="b")
        found = line.run(working.exchange(floors, "w", None, [], 9, 3, idle=False, now=0))
    assert [lease.job_id, *(each.job_id for each in found.leases)] == ["a", "b"]
    assert floors.server > 1
    assert max(floors.floors) < 99


SETTLED = [Ack(), Ack(result=Result(0, b"1")), RetryLater(After(0)), Release(), ReportProgress(b"1")]


@pytest.mark.parametrize("settlement", SETTLED, ids=lambda each: type(each).__name__)
async def test_a_settlement_is_of_the_job_and_not_of_its_place_in_line(
    quiet: Postgres, worker: Consumer, other: psycopg.Connection[Any], settlement: Settlement
) -> None:
    """A server that has lost the last places in line gives them again, to other jobs."""
    with JobQueue(quiet.shared(), "q") as queue:
        queue.push({}, ANY, job_id="a")
        (lease,) = (await worker.exchange([], 10)).leases
        other.execute("delete from redisjobs.jobs")
        other.execute("select setval('redisjobs.line', %s, false)", (lease.token,))
        queue.push({}, ANY, job_id="b")
        (again,) = (await worker.exchange([], 10)).leases
        assert (again.token, again.deliveries) == (lease.token, lease.deliveries)
        assert (await worker.exchange([(lease, settlement)], None)).replies == [Reply.LEASE_LOST]
        other.execute("update redisjobs.jobs set cancelling = true")
        assert worker.sync._ask_cancelled([lease], worker.sync._connection) == []  # type: ignore[attr-defined]
        assert worker.sync._ask_cancelled([again], worker.sync._connection) == [again]  # type: ignore[attr-defined]
        other.execute("update redisjobs.jobs set cancelling = false")
        assert [each.job_id for each in await worker.recover([lease])] == ["b"]
        assert (await worker.exchange([(again, settlement)], None)).replies == [Reply.OK]


async def floors_after(worker: Consumer, times: int) -> list[int]:
    assert isinstance(worker, PostgresConsumer)
    await claim(worker, times)
    return list(worker._floors.floors)


async def test_an_open_transaction_that_wrote_elsewhere_keeps_no_floor(
    quiet: Postgres, worker: Consumer, other: psycopg.Connection[Any]
) -> None:
    other.execute("create table theirs ()")
    with JobQueue(quiet.shared(), "q") as queue, psycopg.connect(quiet.shared()) as writer:
        writer.execute("insert into theirs default values")
        for _ in range(5):
            queue.push({}, ANY)
        ((last,),) = other.execute("select last_value from redisjobs.line").fetchall()
        assert await floors_after(worker, 6) == [last + 1] * 3


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_transaction_that_has_pushed_keeps_the_floors_until_it_ends(
    quiet: Postgres, worker: Consumer, other: psycopg.Connection[Any], prepared: bool
) -> None:
    with JobQueue(quiet.shared(), "q") as queue, psycopg.connect(quiet.shared()) as writer:
        writer.execute("select pg_current_xact_id()")
        writer.execute(
            "insert into redisjobs.jobs (seq, queue, id, name, parameters, rank, place, since_ms)"
            " values (nextval('redisjobs.line'), 'q', 'late', 'a', '{}', 1, 'ready', 0)"
        )  # as a push, which can't be prepared where it notifies
        for _ in range(5):
            queue.push({}, ANY)
        if prepared:
            writer.execute("prepare transaction 'late'")
        ((last,),) = other.execute("select last_value from redisjobs.line").fetchall()
        assert max(await floors_after(worker, 6)) <= last - 5
        if prepared:
            other.execute("commit prepared 'late'")
        writer.commit()
        assert await claim(worker) == ["late"]
        assert await floors_after(worker, 6) == [last + 1] * 3
