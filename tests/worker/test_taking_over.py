"""When a worker takes another one for dead, and how soon the jobs of that one run again."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import pytest
from store import Heart, RedisStore, Store, eventually

from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.errors import Unavailable
from redisjobs.model.context import JobContext
from redisjobs.model.driver import Beaten, Consumer, Fenced
from redisjobs.model.job import State
from redisjobs.model.transitions import Lease, NewJob, Reclaimed, Silent
from redisjobs.queue import JobQueue
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio

LEASE = 0.6  # seconds; of dead workers
SLACK = 3.0  # seconds after its lease within which a dead worker's jobs run


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    store: str = request.node.callspec.params.get("driver_store", "memory")
    if request.param == "trio" and (store != "memory" or "redis_store" in request.fixturenames):
        pytest.skip("redis-py needs asyncio")
    backend: str = request.param
    return backend


async def hold(store: Store, queue: JobQueue, count: int = 1, lease: float = LEASE) -> Consumer:
    """Let a worker hold this many new jobs, which says nothing more by itself."""
    await queue.push_many([Work() for _ in range(count)])
    holder = store.consumer("holder", lease=lease)
    leases: list[Lease] = []
    while len(leases) < count:
        leases += (await holder.exchange([], count - len(leases))).leases
    await holder.aclose()
    return holder


def queue_of(store: Store, ran: list[float] | None = None) -> JobQueue:
    queue = JobQueue(store.driver, store.queue_name)

    @queue.register(Work)
    async def work(_: Work) -> None:
        if ran is not None:
            ran.append(time.monotonic())

    return queue


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 30])
async def test_a_drain_takes_over_all_that_a_dead_worker_held_however_few_slots_it_has(
    store: Store, slots: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "redisjobs.worker")
    async with queue_of(store) as queue:
        await hold(store, queue, 6)
        store.age(60)

        with anyio.fail_after(20):
            await Worker(queue, concurrency=slots, lease=2).run(until_idle=True)

        totals = (await queue.control.counts()).totals
        assert (totals["completed"], totals["reclaimed"], totals["released"]) == (6, 6, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "worker holder is gone: it sent no heartbeat for a lease",
        "6 jobs of workers that are gone run again",
    ]


@pytest.mark.slow
async def test_a_drain_waits_for_jobs_of_a_dead_worker_whose_lease_is_not_over_yet(store: Store) -> None:
    ran: list[float] = []
    async with queue_of(store, ran) as queue:
        await hold(store, queue, 2)

        with anyio.fail_after(20):
            await Worker(queue, lease=2).run(until_idle=True)

        assert len(ran) == 2
        assert (await queue.control.counts()).totals["completed"] == 2


async def test_a_drain_does_not_wait_when_no_one_else_holds_anything(store: Store) -> None:
    async with queue_of(store) as queue:
        await queue.push_many([Work() for _ in range(3)])
        with anyio.fail_after(20):  # less than a lease
            await Worker(queue, lease=60).run(until_idle=True)
            await Worker(queue, lease=60).run(until_idle=True)  # nor if there is nothing at all

        assert (await queue.control.counts()).totals["completed"] == 3


@pytest.mark.slow
async def test_a_drain_leaves_to_the_living_what_they_run(store: Store) -> None:
    async with queue_of(store) as queue:
        holder = await hold(store, queue, lease=60)

        with anyio.fail_after(20):
            await Worker(queue, lease=0.5).run(until_idle=True)

        heart = Heart(holder)
        heart.beat(lambda: (), {})  # it was not fenced
        heart.close()
        assert [job.worker for job in await queue.control.jobs(State.RUNNING)] == ["holder"]


@pytest.mark.slow
@pytest.mark.parametrize("own", [LEASE, 60.0])
async def test_jobs_of_a_dead_worker_run_within_its_lease_and_three_seconds_whatever_the_others_lease(
    store: Store, own: float
) -> None:
    ran: list[float] = []
    async with queue_of(store, ran) as queue:
        worker = Worker(queue, lease=own, concurrency=100)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.ready)
            holder = store.consumer("holder", lease=LEASE)
            heart = Heart(holder)
            await queue.push_many([Work() for _ in range(50)])
            stolen = list((await holder.exchange([], 50)).leases)
            for _ in range(10):  # the others are in touch for a while, as they mostly are
                heart.beat(lambda: (), {})
                await anyio.sleep(LEASE / 5)
            before = len(ran)
            heart.beat(lambda: (), {})
            died_at = time.monotonic()

            await eventually(lambda: len(ran) == before + len(stolen), within=20)
            worker.stop()
        heart.close()
        await holder.aclose()

    assert ran[-1] - died_at <= LEASE + SLACK
    assert not stolen or ran[-1] - died_at >= LEASE / 2


@pytest.mark.slow
async def test_a_worker_with_a_shorter_lease_robs_no_other(store: Store) -> None:
    """As in a deploy that shortens it: each is judged by its own."""
    ran: list[float] = []
    async with queue_of(store, ran) as queue:
        holder = await hold(store, queue, 3, lease=30)
        heart = Heart(holder)
        worker = Worker(queue, lease=0.3)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.ready)
            await anyio.sleep(2)  # more than six of its leases

            heart.beat(lambda: (), {})
            assert ran == []
            worker.stop()
        heart.close()
        counts = await queue.control.counts()
        assert (counts.running, counts.totals["reclaimed"]) == (3, 0)


@pytest.mark.slow
async def test_a_worker_takes_no_worker_for_dead_within_a_lease_of_its_own_start(store: Store) -> None:
    """After an outage all come back one by one: the first has heard of no other."""
    ran: list[float] = []
    async with queue_of(store, ran) as queue:
        await hold(store, queue, lease=1.5)
        store.age(60)
        began = time.monotonic()
        worker = Worker(queue, lease=0.3)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: ran, within=20)
            worker.stop()

    assert ran[0] - began >= 1.5


class Driver(MemoryDriver):
    """Notes when its consumers look for lost workers; no beat gets through while told so."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf = False
        self.looks: list[float] = []
        self.on_its_way: Callable[[], Awaitable[object]] | None = None  # what happens once, as an answer is

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> MemoryConsumer:
        driver = self

        class Consumer(MemoryConsumer):
            async def reclaim(
                self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
            ) -> Reclaimed:
                driver.looks.append(time.monotonic())
                answer = await super().reclaim(silent, others=others, thorough=thorough)
                if happens := driver.on_its_way:
                    driver.on_its_way = None
                    await happens()
                return answer

            def beat(self, held: Callable[[], Sequence[Lease]], facts: Mapping[str, str]) -> Beaten:
                if driver.deaf:
                    raise Unavailable("away, as the test says")
                return super().beat(held, facts)

        return Consumer(self.memory, worker_id, lease, max_deliveries)


@pytest.mark.slow
@pytest.mark.parametrize("lease", [0.8, 60.0])
async def test_a_worker_looks_for_the_dead_several_times_a_lease_and_every_two_seconds(lease: float) -> None:
    driver = Driver()
    await MemoryDriver(driver.memory).consumer("other", lease=3600, max_deliveries=3).open()
    worker = Worker(JobQueue(driver, "q"), lease=lease)
    pause = min(2.0, lease / 4)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: len(driver.looks) >= 4, within=20)
        worker.stop()

    assert driver.looks[3] - driver.looks[0] >= 3 * pause * 0.9  # not on and on
    assert driver.looks[3] - driver.looks[0] <= 3 * pause + SLACK


@pytest.mark.slow
async def test_a_worker_that_is_alone_looks_for_the_dead_less_often_until_another_comes() -> None:
    driver = Driver()
    worker = Worker(JobQueue(driver, "q"), lease=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: len(driver.looks) == 1 and worker._current)
        assert worker._current is not None
        reclaimer = worker._current.sources[0].reclaimer
        await eventually(lambda: reclaimer.every == 7.5)
        await MemoryDriver(driver.memory).consumer("other", lease=3600, max_deliveries=3).open()
        await eventually(lambda: reclaimer.every == 2)
        assert reclaimer.look_at <= time.monotonic() + 2
        worker.stop()


async def test_a_worker_that_comes_as_another_hears_that_it_is_alone_is_heard_of() -> None:
    driver = Driver()
    other = MemoryDriver(driver.memory).consumer("other", lease=3600, max_deliveries=3)
    worker = Worker(JobQueue(driver, "q"), lease=60)

    async def come() -> None:
        assert worker._current is not None
        reclaimer, heard = worker._current.sources[0].reclaimer, anyio.Event()
        hear = reclaimer.note_another

        def note() -> None:
            hear()
            heard.set()

        reclaimer.note_another = note  # type: ignore[method-assign]
        await other.open()
        await heard.wait()

    driver.on_its_way = come
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker._current and worker._current.sources[0].reclaimer.asked_at > 0)
        assert worker._current is not None
        assert worker._current.sources[0].reclaimer.every == 2
        worker.stop()


@pytest.mark.slow
async def test_where_a_worker_with_a_short_lease_seems_to_be_dead_a_worker_looks_again_sooner() -> None:
    driver = Driver()
    worker = Worker(JobQueue(driver, "q"), lease=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: len(driver.looks) == 1)
        dead = MemoryDriver(driver.memory).consumer("dead", lease=1, max_deliveries=3)
        await dead.open()
        driver.memory.workers["dead"].until -= 60

        await eventually(lambda: "dead" not in driver.memory.workers, within=20)
        worker.stop()

    assert len(driver.looks) >= 5  # and not two in all


@pytest.mark.slow
async def test_a_worker_that_can_not_beat_though_the_store_answers_does_not_take_itself_for_dead() -> None:
    """It is for others to say. And what it has begun it may settle, for as long as none did."""
    driver, lease = Driver(), 0.4
    queue = JobQueue(driver, "q")
    started, go, cancelled = anyio.Event(), anyio.Event(), anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        started.set()
        try:
            await go.wait()
        except anyio.get_cancelled_exc_class():
            cancelled.set()
            raise

    worker = Worker(queue, lease=lease)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await queue.push(Work())
        await started.wait()
        before = worker.worker_id
        driver.deaf = True
        await anyio.sleep(2 * lease)
        driver.looks.clear()
        await eventually(lambda: len(driver.looks) >= 3)

        assert not worker.health.ready
        go.set()
        driver.deaf = False
        await eventually(lambda: driver.memory.totals.get("completed"))
        assert worker.worker_id == before
        worker.stop()

    assert not cancelled.is_set()


class Pair:
    """Two workers of one queue; the first one's beats do not get through while told so."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.first, self.second = (self.side(driver) for driver in (self.driver, MemoryDriver(self.driver.memory)))
        self.runs: list[tuple[str, int]] = []
        self.stubborn = False
        self.go = anyio.Event()
        self.cancelled = anyio.Event()

    def side(self, driver: MemoryDriver) -> Worker:
        queue = JobQueue(driver, "q")

        @queue.register(Work)
        async def work(_: Work, context: JobContext) -> None:
            self.runs.append((context.worker_id, context.deliveries))
            if self.first.worker_id == context.worker_id:
                try:
                    await self.go.wait()
                except anyio.get_cancelled_exc_class():
                    self.cancelled.set()
                    if not self.stubborn:
                        raise
                    with anyio.CancelScope(shield=True):
                        await self.go.wait()

        return Worker(queue, lease=1, concurrency=2)


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_worker_that_is_fenced_cancels_its_handlers_and_goes_on_under_a_new_id_with_the_slots_it_has(
    stubborn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    pair = Pair()
    pair.stubborn = stubborn
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            try:
                tasks.start_soon(pair.first.run)
                await eventually(lambda: pair.first.health.ready)
                await pair.driver.push([NewJob("a", ["name", "Work", "parameters", "{}"])], repeated=False)
                await eventually(lambda: pair.runs)
                before = pair.first.worker_id
                pair.driver.deaf = True
                tasks.start_soon(pair.second.run)
                await eventually(lambda: len(pair.runs) == 2, within=10)
                assert pair.runs == [(before, 1), (pair.second.worker_id, 2)]
                await eventually(lambda: pair.driver.memory.totals.get("completed") == 1)
                pair.driver.deaf = False

                await pair.cancelled.wait()
                await eventually(lambda: pair.first.worker_id != before and pair.first.health.ready, within=10)
                now = pair.first.worker_id
                pair.second.stop()
                await eventually(lambda: pair.second.health.why == "not running")
                busy = 1 if stubborn else 0
                assert pair.first.health.why == f"{busy} of 2 slots are busy"

                await pair.driver.push(
                    [NewJob(job_id, ["name", "Work", "parameters", "{}"]) for job_id in "bc"], repeated=False
                )
                await eventually(lambda: len(pair.runs) == 3 + (not stubborn))
                await anyio.wait_all_tasks_blocked()
                assert pair.runs[2:] == [(now, 1)] * (
                    1 if stubborn else 2
                )  # one that heeds nothing keeps its slot

                pair.go.set()
                await eventually(lambda: pair.driver.memory.totals.get("completed") == 3)
                pair.first.stop()
            finally:
                pair.go.set()

    assert pair.driver.memory.totals["reclaimed"] == 1
    said = [record.getMessage() for record in caplog.records]
    assert f"this worker is now {now}" in said
    assert any("other workers will run its jobs, and it goes on under a new id" in text for text in said)
    assert "job a: the lease was lost; its handler is cancelled" in said
    assert len([text for text in said if text.startswith("job a (") and text.endswith(": done")]) == 1


async def test_a_fenced_worker_hands_back_what_a_late_read_of_its_old_id_brought(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocking read is served though its worker is none any more; only what is asked behind it tells."""
    ran: list[float] = []
    wait, lost = RedisConsumer.wait, anyio.Event()

    async def note_loss(consumer: RedisConsumer, *asked: Any) -> list[Lease]:
        try:
            return await wait(consumer, *asked)
        except Fenced:
            lost.set()
            raise

    monkeypatch.setattr(RedisConsumer, "wait", note_loss)
    async with queue_of(redis_store, ran) as queue:
        worker = Worker(queue, lease=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            before = worker.worker_id
            record = f"{redis_store.prefix}worker:{before}"
            # After its first beat, and with its read held by the server, it hears nothing for a while.
            await eventually(lambda: redis_store.is_blocked() and redis_store.admin.hexists(record, "started"))
            assert worker.worker_id == before
            with redis_store.admin.pipeline() as at_once:
                at_once.zrem(f"{redis_store.prefix}workers", before)
                at_once.delete(record)
                at_once.xadd(redis_store.stream(), {"id": "late", "name": "Work", "parameters": "{}"})
                at_once.execute()
            with anyio.fail_after(10):
                await lost.wait()

            await eventually(lambda: len(ran) == 1 and not redis_store.pending(), within=10)
            assert worker.worker_id != before
            # Another one may be under way: it is looked at again.
            assert redis_store.admin.zscore(f"{redis_store.prefix}fenced", before) is not None
            worker.stop()
        assert (await queue.control.counts()).totals["completed"] == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_jobs_of_a_worker_that_died_when_workers_was_taken_away_run_after_its_lease(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "redisjobs.worker.source.reclaimer._TIDY", 600
    )  # all consumers are looked at once a minute
    ran: list[float] = []
    async with queue_of(redis_store, ran) as queue:
        worker = Worker(queue, lease=LEASE)
        async with anyio.create_task_group() as tasks:
            holder = await hold(redis_store, queue, lease=LEASE)
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.ready)
            redis_store.admin.delete(f"{redis_store.prefix}workers")
            await eventually(lambda: len(ran) == 1, within=20)
            worker.stop()
        await holder.aclose()
