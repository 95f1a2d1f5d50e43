"""A server without memory left: workers come up on it, wait on it, and drain it."""

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import ClassVar

import anyio
import pytest
import redis
from store import RedisStore, eventually

from conftest import ENGINES
from redisjobs import JobContext, JobQueue, Worker, no_retry
from redisjobs.local import server
from redisjobs.model.driver import Fenced
from redisjobs.model.job import Priority
from redisjobs.model.transitions import Ack, NewJob, Turn

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


class Bench:
    """A queue on a server whose memory can be filled, and what ran."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.queue = JobQueue(store.url, store.queue_name)
        self.ran: list[int] = []
        self.queue.register(Work)(lambda work: self.ran.append(work.number))

    def fill(self) -> None:
        self.store.admin.config_set("maxmemory", 1)

    def make_room(self) -> None:
        self.store.admin.config_set("maxmemory", 0)

    def destroy_groups(self) -> None:
        for priority in Priority:
            self.store.admin.xgroup_destroy(self.store.stream(priority), "workers")

    def groups(self) -> int:
        return sum(
            len(self.store.admin.xinfo_groups(self.store.stream(priority)))
            for priority in Priority
            if self.store.admin.exists(self.store.stream(priority))
        )


@pytest.fixture(scope="module", params=ENGINES)
def small_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of each kind, for these tests alone."""
    with server.start(server.inspect(ENGINES[request.param])) as running:
        yield running.url


@pytest.fixture
async def bench(small_url: str) -> AsyncIterator[Bench]:
    store = RedisStore(redis.Redis.from_url(small_url), small_url, f"test-{uuid.uuid4().hex[:12]}")
    bench = Bench(store)
    try:
        yield bench
    finally:
        bench.make_room()
        await bench.queue.aclose()
    faults = store.faults()
    store.end()
    assert faults == []


async def test_a_worker_that_starts_on_a_full_server_comes_up_and_drains_it(bench: Bench) -> None:
    await bench.queue.push_many([Work(1), Work(2)])
    bench.fill()

    await Worker(bench.queue).run(until_idle=True)

    assert sorted(bench.ran) == [1, 2]
    assert bench.store.located() == {}


async def test_on_a_full_server_a_dead_workers_jobs_run_elsewhere(bench: Bench) -> None:
    await bench.queue.push_many([Work(1), Work(2), Work(3)])
    dead = bench.store.consumer("dead", lease=0.6)
    assert len((await dead.exchange([], 2)).leases) == 2
    await dead.aclose()
    bench.fill()

    with anyio.fail_after(20):
        await Worker(bench.queue, lease=0.6).run(until_idle=True)

    assert sorted(bench.ran) == [1, 2, 3]
    assert bench.store.located() == {}


async def test_on_a_full_server_a_worker_that_was_fenced_goes_on_under_a_new_id(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(bench.queue, lease=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker.health.ready and bench.store.is_blocked())
        await bench.queue.push_many([Work(1), Work(2)])
        await eventually(lambda: len(bench.ran) == 2 and bench.store.located() == {})
        prefix = bench.store.prefix
        (first,) = bench.store.admin.zrange(f"{prefix}workers", 0, -1)
        bench.fill()

        bench.store.admin.delete(f"{prefix}worker:{first.decode()}")  # as a failover may lose it

        await eventually(lambda: bench.store.admin.zrange(f"{prefix}workers", 0, -1) not in ([], [first]))
        await eventually(lambda: worker.health.ready)
        bench.make_room()
        await bench.queue.push(Work(3))
        await eventually(lambda: sorted(bench.ran) == [1, 2, 3])
        worker.stop()
    assert "goes on under a new id" in caplog.text


async def test_a_fenced_worker_whose_settlement_a_full_server_refused_learns_that_it_is_fenced(
    bench: Bench,
) -> None:
    driver = bench.queue.driver
    await driver.push([NewJob("parent", ["name", "Work", "parameters", "{}"])], repeated=False)
    consumer = driver.consumer("w", lease=15, max_deliveries=3)
    await consumer.open("w")
    (lease,) = (await consumer.exchange([], 1)).leases
    bench.store.admin.delete(f"{bench.store.prefix}worker:w")
    bench.fill()
    child = NewJob("child", ["name", "Work", "parameters", "{}"])

    with pytest.raises(Fenced):
        await consumer.exchange([(lease, Ack(pushes=[child]))], 1, turn=Turn(1, 1))

    await consumer.aclose()


async def test_a_worker_waits_on_a_full_server_that_lost_its_groups_and_runs_what_comes(bench: Bench) -> None:
    worker = Worker(bench.queue, lease=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker.health.ready and bench.store.is_blocked())
        bench.fill()

        bench.destroy_groups()  # which ends the blocking read by an error

        await eventually(lambda: bench.groups() == 3 and bench.store.is_blocked())
        asked = commands(bench.store)
        await anyio.sleep(0.5)
        more = commands(bench.store) - asked
        assert more["cmdstat_evalsha"] + more["cmdstat_xreadgroup"] < 10  # it waits, and does not spin
        bench.make_room()
        await bench.queue.push(Work(3))
        await eventually(lambda: bench.ran == [3])
        worker.stop()


@pytest.mark.parametrize("lost", ["the groups", "all keys"])
async def test_a_blocking_read_makes_the_groups_it_lacks_though_the_server_is_full(
    bench: Bench, lost: str
) -> None:
    consumer = bench.store.consumer("w1")
    await consumer.open()
    bench.fill()
    if lost == "the groups":
        bench.destroy_groups()
    else:
        bench.store.admin.delete(*(bench.store.prefix + key for key in list(bench.store.keys())))

    if lost == "all keys":  # its record too: it has to join again first
        with pytest.raises(Fenced):
            await consumer.wait(10, 0.01)
        assert bench.groups() == 0
        await consumer.open("w1-again")

    assert await consumer.wait(10, 0.01) == []

    assert bench.groups() == 3
    await consumer.aclose()


async def test_a_worker_that_may_not_make_the_groups_ends_and_says_so(bench: Bench) -> None:
    bench.store.admin.execute_command("ACL", "SETUSER", bench.store.user, "-xgroup")

    with pytest.raises(Exception, match=r"ACL forbids.*'?xgroup"):
        await Worker(bench.queue).run()


def commands(store: RedisStore) -> Counter[str]:
    """How often each command was called."""
    return Counter({name: row["calls"] for name, row in store.admin.info("commandstats").items()})


async def test_on_a_full_server_jobs_that_push_others_wait_and_the_rest_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.leases._REFUSED", 0.1)
    queue = bench.queue

    @queue.job
    async def parent(context: JobContext) -> None:
        context.push({"number": 7}, "Work")

    await parent.push()
    await queue.push_many([{"number": number} for number in range(3)], "Work")
    bench.fill()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue, concurrency=5, lease=1).run)
        await eventually(lambda: "waits until it has room" in caplog.text)
        await eventually(lambda: sorted(bench.ran) == [0, 1, 2])
        with anyio.fail_after(5):
            while (counts := await queue.control.counts()).totals["completed"] != 3:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert counts.running == 1
        bench.make_room()
        with anyio.fail_after(5):  # and not only until it has run: that was in a thread
            while (await queue.control.counts()).totals["completed"] != 5:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert 7 in bench.ran
    assert caplog.text.count("waits until it has room") == 1


@pytest.mark.slow
async def test_what_running_jobs_save_waits_for_room_and_what_they_emit_and_report_takes_none(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    store, began, saved = bench.store, anyio.Event(), list[str]()

    @bench.queue.job(retry=no_retry())
    async def saves(context: JobContext) -> None:
        began.set()
        saved.append(await context.step("one", lambda: "x" * 1000))

    @bench.queue.job(retry=no_retry())
    async def emits(context: JobContext) -> None:
        await began.wait()
        context.emit("x" * 100_000)
        context.progress(0.5)

    handles = [await saves.push(), await emits.push(), await bench.queue.push(Work(7))]
    worker = Worker(bench.queue)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            bench.fill()
            tasks.start_soon(worker.run)
            await eventually(lambda: set(store.located()) == {handles[0].id}, within=20)
            written = ("steps:", "chunks:", "progress:")
            assert not any(key.startswith(written) for key in dict(store.keys()))
            assert (saved, bench.ran) == ([], [7])
            bench.make_room()
            await eventually(lambda: store.located() == {}, within=20)
            worker.stop()

    assert saved == ["x" * 1000]
    assert (await bench.queue.control.counts()).totals["completed"] == 3
    assert sum("out of memory: what jobs" in record.message for record in caplog.records) == 1
    assert sum("chunks that it has emitted are lost" in record.message for record in caplog.records) == 1
