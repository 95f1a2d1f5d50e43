"""A worker on Postgres: its heartbeat for several queues, its sessions; and a program without psycopg."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from postgres_store import PostgresStore, jobs
from store import eventually

from redisjobs import JobQueue, Worker
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.model.changes import Cancel, Pause
from redisjobs.model.driver import Beat, Fenced, Renewed
from redisjobs.model.queries import Count

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PROJECT = Path(__file__).parents[2]


def named(store: PostgresStore, queue: str) -> PostgresDriver:
    """A driver whose sessions have the name of the store's queue."""
    return PostgresDriver(f"{store.url}?application_name={store.queue_name}", queue)


def sessions(store: PostgresStore) -> int:
    (row,) = store.admin.execute(
        "select count(*) from pg_stat_activity where application_name = %s", (store.queue_name,)
    )
    return int(row[0])


@pytest.fixture
async def drivers(postgres_store: PostgresStore) -> AsyncIterator[list[PostgresDriver]]:
    """Of two queues in one database."""
    names = postgres_store.queue_name, f"{postgres_store.queue_name}-b"
    made = [named(postgres_store, name) for name in names]
    yield made
    for driver in made:
        await driver.aclose()
    for table in postgres_store.tables():
        postgres_store.admin.execute(f"delete from redisjobs.{table} where queue = %s".encode(), (names[1],))


async def test_one_beat_is_for_workers_of_several_queues(drivers: list[PostgresDriver]) -> None:
    one, two = (driver.consumer("w", lease=15, max_deliveries=3) for driver in drivers)
    await one.open()
    await two.open()
    stranger = drivers[0].consumer("stranger", lease=15, max_deliveries=3)
    assert one.server == two.server
    await drivers[1].push(jobs("a"), repeated=False)
    (lease,) = (await two.exchange([], 1)).leases
    await drivers[1].change(Cancel("a"))

    beats = [Beat(one, list, {"host": "x"}), Beat(two, lambda: [lease], {}), Beat(stranger, list, {})]
    first, second, third = one.sync.beat(*beats)

    assert first == Renewed()
    assert isinstance(second, Renewed)
    assert [each.job_id for each in second.cancelled] == ["a"]
    assert isinstance(third, Fenced)
    one.sync.close()
    for consumer in (one, two):
        await consumer.release(refund=True, watch=False)
        await consumer.aclose()


async def test_a_worker_runs_what_is_on_the_queue_and_leaves_no_session(
    postgres_store: PostgresStore, drivers: list[PostgresDriver]
) -> None:
    ran = list[int]()
    async with JobQueue(drivers[0], postgres_store.queue_name) as queue:

        @queue.job(keep_result=60)
        async def double(number: int) -> int:
            ran.append(number)
            return 2 * number

        handles = [await double.push(number) for number in range(30)]
        await Worker(queue, concurrency=4).run(until_idle=True)

        assert sorted(ran) == [*range(30)]
        assert [await handle.result(timeout=10) for handle in handles] == [2 * number for number in range(30)]
        counts = await drivers[0].read(Count())
    assert (sum(counts.ready.values()), counts.running, counts.totals["completed"]) == (0, 0, 30)
    await eventually(lambda: sessions(postgres_store) == 0)


def test_a_forked_process_leaves_the_sessions_of_its_parent_alone(postgres_store: PostgresStore) -> None:
    sync = named(postgres_store, postgres_store.queue_name).make_sync()
    sync.push(jobs("parent"), repeated=False)
    child = os.fork()
    if child == 0:
        try:
            sync.push(jobs("child"), repeated=False)
            sync.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    sync.push(jobs("again"), repeated=False)

    assert sorted(id for (id,) in postgres_store.rows("select id from redisjobs.jobs where queue = %s")) == [
        "again",
        "child",
        "parent",
    ]
    assert sessions(postgres_store) == 1  # the parent's own, which it still uses
    sync.close()


def test_a_sync_call_that_ctrl_c_ends_leaves_the_next_one_its_own_answer(postgres_store: PostgresStore) -> None:
    sync = named(postgres_store, postgres_store.queue_name).make_sync()
    sync.push(jobs("a"), repeated=False)
    postgres_store.admin.execute("begin")
    postgres_store.admin.execute(
        "select pg_advisory_xact_lock(hashtextextended('redisjobs queue ' || %s, 0))", (postgres_store.queue_name,)
    )
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sync.change(Pause())
    finally:
        signal.signal(signal.SIGALRM, before)
    postgres_store.admin.execute("rollback")

    assert sum(sync.read(Count()).ready.values()) == 1
    sync.close()


def test_without_psycopg_an_error_says_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['psycopg'] = None\nfrom redisjobs import JobQueue\n"
        "JobQueue('postgresql://host/jobs', name='q')"
    )

    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=50)

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "ValueError: a queue in Postgres needs psycopg, which is not here: install redisjobs with its extra "
        "`postgres`"
    )
