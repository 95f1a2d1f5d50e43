"""A worker never takes what others still hold, never stays stuck, and strands nothing when it stops listening."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from store import Heart, RedisStore, Store, eventually, inherit
from tenacity import RetryCallState

from redisjobs import JobQueue, RetryPolicy, Worker, no_retry
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.drivers.redis.heartbeat import SyncRedisConsumer
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.driver import Beaten, Consumer
from redisjobs.model.job import State
from redisjobs.model.queries import Find
from redisjobs.model.transitions import Exchange, Lease
from redisjobs.worker.run import WorkerRun
from redisjobs_proof.torture.proxy import Proxy

pytestmark = pytest.mark.anyio
LEASE = 1.5  # seconds


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    seconds: float = 0


def queue_at(where: object, name: str, ran: list[float] | None = None) -> JobQueue:
    queue = JobQueue(where, name)

    @queue.register(Work)
    async def work(work: Work) -> None:
        if ran is not None:
            ran.append(time.monotonic())
        await anyio.sleep(work.seconds)

    return queue


class Deaf(MemoryDriver):
    """A store whose exchanges get no answer while it is deaf; all else works."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf_for = 0  # exchanges
        self.asked = 0
        self.takes = float("inf")  # seconds until there is an answer after all
        self.trickles = False  # parts of it come all the while

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> MemoryConsumer:
        driver = self

        class DeafConsumer(MemoryConsumer):
            @property
            def noticed_at(self) -> float:
                return time.monotonic() if driver.trickles else float("-inf")

            async def exchange(self, *asked: Any, **more: Any) -> Exchange:
                driver.asked += 1
                if driver.asked <= driver.deaf_for:
                    await anyio.sleep(driver.takes)
                return await super().exchange(*asked, **more)

        return DeafConsumer(self.memory, worker_id, lease, max_deliveries)


async def test_a_worker_that_gets_nothing_through_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    driver = Deaf()
    driver.deaf_for = 1
    queue = queue_at(driver, "q")
    worker = Worker(queue, lease=0.2)
    job_id = (await queue.push(Work())).id

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: driver.asked == 1)
        await eventually(lambda: not worker.health.live)
        assert "no exchange" in worker.health.why
        await eventually(lambda: driver.sync.read(Find(job_id)) is None)
        assert worker.health.ready
        worker.stop()

    assert "stuck: nothing got through" in caplog.text


@pytest.mark.slow
async def test_a_worker_that_stays_stuck_ends_with_an_error() -> None:
    driver = Deaf()
    driver.deaf_for = 1000

    with pytest.raises(DriverError, match=r"stuck: nothing got through for 1\.2 s"):
        await Worker(queue_at(driver, "q"), lease=0.2).run()


@pytest.mark.slow
async def test_a_reply_that_takes_long_but_keeps_coming_is_not_taken_for_being_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Deaf()
    driver.deaf_for, driver.takes, driver.trickles = 1, 3.0, True
    worker = Worker(queue_at(driver, "q"), lease=0.2)  # it would give up after twelve leases
    states: list[bool] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: driver.asked == 1)
        while driver.asked == 1:
            states.append(worker.health.live)
            await anyio.sleep(0.05)
        worker.stop()

    assert all(states)
    assert "stuck" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("lease", [0.2, 3.0])
async def test_a_blocked_loop_is_no_reason_to_give_up_but_one_to_say_where(
    caplog: pytest.LogCaptureFixture, redis_store: RedisStore, lease: float
) -> None:
    queue = JobQueue(redis_store.url, redis_store.queue_name)
    starts = 0

    @queue.register(Work)
    async def block(work: Work) -> None:
        nonlocal starts
        starts += 1
        time.sleep(work.seconds)  # noqa: ASYNC251  (this is what must not be done)

    job_id = (await queue.push(Work(2.5))).id  # 12 of the shorter leases
    worker = Worker(queue, lease=lease, concurrency=1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: starts == 1, within=10)
        worker.stop()

    assert starts == 1
    assert await queue.get(job_id) is None
    await queue.aclose()
    said = [record.getMessage() for record in caplog.records if "is blocked for" in record.getMessage()]
    assert len(said) == 1
    assert re.search(rf"blocked for \d\.\d s in job {job_id} \(Work\), .*test_never_stuck\.py:\d+", said[0])


@pytest.mark.slow
async def test_a_retry_policy_that_blocks_the_loop_is_reported_with_its_job(
    caplog: pytest.LogCaptureFixture, redis_store: RedisStore
) -> None:
    queue = JobQueue(redis_store.url, redis_store.queue_name)

    def block(_: RetryCallState) -> bool:
        time.sleep(1.5)
        return False

    @queue.register(Work, retry=RetryPolicy(retry_if=block))
    async def fail(work: Work) -> None:
        raise ValueError

    job_id = (await queue.push(Work())).id
    await Worker(queue, lease=15).run(until_idle=True)

    await queue.aclose()
    said = [record.getMessage() for record in caplog.records if "is blocked for" in record.getMessage()]
    assert len(said) == 1
    assert re.search(rf"blocked for \d\.\d s in job {job_id} \(Work\), .*test_never_stuck\.py:\d+", said[0])


async def hold(store: Store, count: int = 1) -> Consumer:
    """Let a worker hold jobs, which says nothing more by itself."""
    async with queue_at(store.driver, store.queue_name) as queue:
        await queue.push_many([Work()] * count)
    holder = store.consumer("holder", lease=LEASE)
    assert len((await holder.exchange([], count)).leases) == count
    await holder.aclose()
    return holder


@pytest.mark.slow
async def test_after_a_time_when_no_worker_could_beat_no_worker_is_taken_for_dead_for_one_lease(
    redis_store: RedisStore,
) -> None:
    ran: list[float] = []
    host, port = redis_store.url.rpartition("@")[2].split("/")[0].split(":")
    with Proxy(host, int(port)) as proxy:
        queue = queue_at(redis_store.url.replace(f":{port}/", f":{proxy.port}/"), redis_store.queue_name, ran)
        worker = Worker(queue, lease=LEASE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.ready)
            proxy.refuse(True)
            proxy.drop_all()
            await eventually(lambda: not worker.health.ready)
            await anyio.sleep(LEASE)  # by its own clock, no worker could beat for this long
            await hold(redis_store)
            redis_store.age(60)

            back_at = time.monotonic()
            proxy.refuse(False)

            await eventually(lambda: ran, within=10)
            worker.stop()
        await queue.aclose()

    assert ran[0] - back_at >= LEASE


@pytest.mark.slow
@pytest.mark.parametrize("step", [3600.0, -3600.0])
@pytest.mark.parametrize("alive", [True, False])
async def test_a_step_of_the_servers_clock_neither_robs_the_living_nor_spares_the_dead(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture, step: float, alive: bool
) -> None:
    ran: list[float] = []
    holder = await hold(redis_store)
    heart = Heart(holder)
    worker = Worker(queue_at(redis_store.driver, redis_store.queue_name, ran), lease=LEASE)

    async def live(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(Unavailable):  # on a busy machine: it beats again
                heart.beat(lambda: (), {})
            await anyio.sleep(LEASE / 5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await live(2 * LEASE)  # until it has been in touch for more than a lease

        set_at = time.monotonic()
        redis_store.clock.step(step)

        if alive:
            await live(LEASE + 3.5)  # longer than the dead are spared
            assert ran == []
        else:
            await eventually(lambda: ran, within=10)
        worker.stop()
    heart.close()

    if not alive:
        # Set ahead, it may have been so for a lease. Set back, its worker may be one that was silent for a while.
        assert LEASE * 2 / 3 <= ran[0] - set_at <= LEASE + 3 + 1
    assert "the server's clock was set" in caplog.text


async def test_an_idle_worker_that_stops_ends_its_blocking_read_in_order(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off, it could still be delivered to: such a job would wait for a lease that no worker renews."""
    queue = queue_at(redis_store.url, redis_store.queue_name)
    for _ in range(5):
        worker = Worker(queue, lease=60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: blocked_readers(redis_store)() == 1)
            tasks.start_soon(queue.push_many, [Work()] * 50)
            worker.stop()

    await Worker(queue, lease=60).run(until_idle=True)

    assert queue.driver is not None
    assert (await queue.control.counts()).running == 0
    assert (await queue.control.jobs(State.READY)) == []
    await queue.aclose()


def blocked_readers(store: RedisStore) -> Callable[[], int]:
    def count() -> int:
        mine = [client for client in store.admin.client_list() if client["user"] == store.user]
        return sum("b" in client["flags"] for client in mine)

    return count


async def test_when_jobs_are_released_idle_workers_take_them_without_connecting_again(
    redis_store: RedisStore,
) -> None:
    ran: list[float] = []
    queue = queue_at(redis_store.url, redis_store.queue_name, ran)
    await queue.push(Work())
    await queue.aclose()
    holder = redis_store.consumer("holder")
    await holder.open()
    assert len((await holder.exchange([], 1)).leases) == 1
    worker = Worker(queue, lease=60, schedules=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: blocked_readers(redis_store)() == 1)
        await eventually(lambda: redis_store.admin.pubsub_numsub(f"{redis_store.prefix}control:0")[0][1] == 1)
        before = redis_store.admin.info("stats")["total_connections_received"]

        await holder.release(refund=True, watch=False)

        await eventually(lambda: len(ran) == 1, within=10)  # by itself it would look after 15 s
        await eventually(lambda: blocked_readers(redis_store)() == 1)
        assert redis_store.admin.info("stats")["total_connections_received"] == before
        worker.stop()
    await holder.aclose()
    await queue.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("robbed", [False, True])
def test_a_worker_that_was_frozen_for_its_lease_starts_nothing_that_it_was_given_before_it_knows_that_it_lives(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, robbed: bool
) -> None:
    ran: list[float] = []
    thawed = threading.Event()
    thawed.set()
    beat = SyncRedisConsumer.beat

    def beat_unless_frozen(heart: SyncRedisConsumer, *told: Any) -> Sequence[Beaten]:
        thawed.wait()
        return beat(heart, *told)

    monkeypatch.setattr(SyncRedisConsumer, "beat", beat_unless_frozen)

    async def main() -> None:
        queue = queue_at(redis_store.url, redis_store.queue_name, ran)
        worker = Worker(queue, lease=LEASE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: blocked_readers(redis_store)() == 1)
            before = worker.worker_id
            thawed.clear()
            redis_store.put({"name": "Work", "parameters": "{}"})
            time.sleep(LEASE * 1.1)  # noqa: ASYNC251  (a process that is stopped stands still, loop and all)
            held: list[Lease] = []
            if robbed:
                with anyio.from_thread.start_blocking_portal() as portal:
                    other = redis_store.driver.consumer("other", lease=LEASE, max_deliveries=3)

                    async def rob() -> None:
                        await other.open()
                        held.extend(await inherit(other))
                        await other.aclose()

                    portal.call(rob)
                assert len(held) == 1
            await anyio.sleep(LEASE / 3)  # the loop runs before the heartbeat
            assert ran == []
            thawed.set()
            if robbed:
                await eventually(lambda: worker.worker_id != before and worker.health.ready, within=10)
                assert ran == []
            else:
                await eventually(lambda: ran, within=10)
                assert worker.worker_id == before
            worker.stop()
        await queue.aclose()

    anyio.run(main)

    pending = [(worker, deliveries) for _, worker, deliveries in redis_store.pending()]
    assert pending == ([("other", 2)] if robbed else [])
    assert len(ran) == (0 if robbed else 1)


async def test_an_older_answer_that_was_overtaken_changes_nothing(store: Store) -> None:
    worker_run = WorkerRun([replace(Worker(queue_at(store.driver, store.queue_name)).settings, until_idle=True)])
    (source,) = worker_run.sources
    now = time.monotonic()
    source.promoter.learn(Exchange(due_in=0.5), now)

    source.promoter.learn(Exchange(), now - 1)

    assert source.promoter.expects(within=0.5)


@pytest.mark.parametrize("how", ["at its end", "later"])
async def test_a_cancel_that_a_handler_leaves_behind_ends_neither_worker_nor_slot(store: Store, how: str) -> None:
    queue = JobQueue(store.driver, store.queue_name)
    ran: list[str] = []

    @queue.job(name="Careless")
    async def careless() -> None:
        ran.append("careless")
        task = asyncio.current_task()
        assert task is not None
        if how == "later":
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            task.cancel()

    @queue.job(name="Careful", retry=no_retry())
    async def careful() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        except* ValueError:
            ran.append("careful")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async with queue:
        for _ in range(3):
            await careless.push()
            await Worker(queue, concurrency=1).run(until_idle=True)
        await careless.push()
        await careful.push()
        await careful.push()
        await Worker(queue, concurrency=1, grace=1).run(until_idle=True)
        await Worker(queue, concurrency=1, grace=1).run(until_idle=True)

        assert ran.count("careful") == 2
        assert (await queue.control.counts()).dead == 0


async def test_a_worker_returns_once_its_share_is_done(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with queue_at(store.driver, store.queue_name) as queue:
        await queue.push_many([Work(0.01)] * 12)

        await Worker(queue, max_jobs=5, concurrency=4).run()

        assert (await queue.control.counts()).totals["completed"] == 5
    assert "5 jobs were run" in caplog.text


@pytest.mark.parametrize("option", ["max_jobs", "max_rss"])
def test_a_share_of_nothing_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        Worker(queue_at("memory://", "q"), **{option: 0})  # type: ignore[arg-type]


def through(store: RedisStore, proxy: Proxy) -> str:
    """The store's address by way of a proxy."""
    return store.url.replace(f":{proxy.target[1]}/", f":{proxy.port}/")


async def test_a_worker_that_stops_as_it_begins_to_read_is_forgotten_at_once(
    redis_store: RedisStore, proxy: Proxy
) -> None:
    """Cut off just as it asks, its consumer would have to be watched for a late read."""

    def begins_to_read() -> bool:
        mine = [client for client in redis_store.admin.client_list() if client["user"] == redis_store.user]
        return any(client["cmd"] == "client|id" for client in mine)

    proxy.delay_reply(0.5, b"CLIENT\r\n$2\r\nID")
    queue = queue_at(through(redis_store, proxy), redis_store.queue_name)
    worker = Worker(queue, lease=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(begins_to_read)
        worker.stop()

    await queue.aclose()
    assert not [key for key in sorted(redis_store.keys()) if key.startswith(("worker:", "fenced"))]


@pytest.mark.slow
async def test_a_large_job_over_a_slow_line_is_waited_for_while_it_keeps_coming(
    redis_store: RedisStore, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Longer than an answer may keep silent, and than a worker may be stuck."""
    ran: list[float] = []
    redis_store.put({"name": "Work", "parameters": "{}", "padding": b"x" * 12_000_000})
    proxy.delay(0.044)  # for each 64 kB: 1.5 MB/s
    queue = queue_at(through(redis_store, proxy), redis_store.queue_name, ran)
    worker = Worker(queue, lease=1)
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: ran, within=40)
        worker.stop()
    await queue.aclose()

    assert ran[0] - began > 6
    assert len(ran) == 1
    assert "stuck" not in caplog.text
    stats = redis_store.admin.hgetall(f"{redis_store.prefix}stats")
    assert (stats.get(b"completed"), stats.get(b"released"), stats.get(b"reclaimed")) == (b"1", None, None)


async def test_a_beat_does_not_wait_for_its_answer_longer_than_the_lease_bears(
    redis_store: RedisStore, proxy: Proxy
) -> None:
    driver = RedisDriver(through(redis_store, proxy), redis_store.queue_name)
    consumer = driver.consumer("w", lease=0.9, max_deliveries=3)
    await consumer.open()
    heart = Heart(consumer)
    heart.beat(lambda: (), {})
    proxy.black_hole(True)
    began = time.monotonic()

    with pytest.raises(Unavailable):
        await anyio.to_thread.run_sync(lambda: heart.beat(lambda: (), {}))

    assert time.monotonic() - began < 4.5  # others are waited for 5 s
    proxy.black_hole(False)
    heart.close()
    await consumer.aclose()
    await driver.aclose()


async def test_how_many_jobs_are_asked_for_follows_their_size(redis_store: RedisStore) -> None:
    consumer = redis_store.consumer("w")
    for _ in range(30):
        redis_store.put({"name": "Work", "parameters": "{}", "padding": b"x" * 500_000})
    await consumer.exchange([], 100)

    large = [len((await consumer.exchange([], 100)).leases) for _ in range(4)]
    while (await consumer.exchange([], 100)).leases:
        pass
    for _ in range(300):
        redis_store.put({"name": "Work", "parameters": "{}"})
    small = [len((await consumer.exchange([], 100)).leases) for _ in range(12)]

    assert all(0 < number <= 3 for number in large)
    assert max(small) == 100
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()
