"""What may not start: paused queues and names, and held jobs, on memory and on every server at hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import anyio
import pytest
from store import RedisStore, Store, eventually

from redisjobs import JobName, JobQueue, Reply, State, Worker, sync
from redisjobs.driver import Consumer, Driver
from redisjobs.job import Priority
from redisjobs.queries import (
    Count,
    FindPauses,
    Hold,
    List,
    Pause,
    Pauses,
    Resume,
    Scan,
    Unhold,
    Unpark,
)
from redisjobs.transitions import Exchange, NewJob

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@dataclass
class Other:
    job_name: ClassVar[str] = "Other"
    number: int = 0


def job(job_id: str, name: str = "Work", **options: Any) -> NewJob:
    return NewJob(job_id, ["name", name, "parameters", "{}"], **options)


@pytest.fixture
async def driver(store: Store) -> AsyncIterator[Driver]:
    store.clock.advance(0)
    async with aclosing(store.driver) as open_driver:
        yield open_driver


@pytest.fixture
async def worker(store: Store, driver: Driver) -> AsyncIterator[Consumer]:
    async with aclosing(store.consumer("w1")) as consumer:
        await consumer.open()
        yield consumer


async def push(driver: Driver, *jobs: NewJob) -> None:
    await driver.push(jobs, repeated=False)


async def claim(worker: Consumer, count: int = 50) -> list[str]:
    """The ids of all that can be claimed."""
    return [lease.job_id for answer in await claims(worker, count) for lease in answer.leases]


async def claims(worker: Consumer, count: int = 50) -> list[Exchange]:
    answers = [await worker.exchange([], count)]
    while answers[-1].more:
        answers.append(await worker.exchange([], count))
    return answers


async def unpark(driver: Driver) -> None:
    after = await driver.change(Unpark())
    while after:
        after = await driver.change(Unpark(after))


async def ids(driver: Driver, state: State = State.READY) -> list[str]:
    listed = [row.job_id for row in await driver.read(List(state, 500))]
    if state is not State.RUNNING:
        scanned = (await driver.read(Scan(state))).rows
        assert [row.job_id for row in scanned] == listed
    return listed


# By hand


async def test_a_job_that_was_put_in_by_hand_can_be_held(store: Store, driver: Driver, worker: Consumer) -> None:
    entry = store.put({"name": "Work", "parameters": "{}"})
    assert await driver.change(Hold(entry)) is Reply.HELD
    assert await claim(worker) == []
    assert await driver.change(Unhold(entry)) is Reply.OK
    assert await claim(worker) == [entry]


async def test_a_queue_is_paused_by_the_key_alone(engine_redis: RedisStore) -> None:
    store = engine_redis
    store.admin.set(f"{store.prefix}paused", "by hand")
    async with aclosing(store.driver), aclosing(store.consumer("w1")) as worker:
        await worker.open()
        await push(store.driver, job("a"))
        assert (await worker.exchange([], 5)).paused
        assert await store.driver.read(FindPauses()) == Pauses(0, {}, 0)
        store.admin.delete(f"{store.prefix}paused")
        assert await claim(worker) == ["a"]


async def test_a_parked_entry_that_is_removed_by_hand_is_in_nobodys_way(engine_redis: RedisStore) -> None:
    store = engine_redis
    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        entry = store.put({"name": "Work", "parameters": "{}"})
        await push(driver, job("there"))
        await driver.change(Pause("Work"))
        assert await claim(worker) == []
        store.admin.xdel(store.stream(), entry)
        await driver.change(Resume("Work"))
        await unpark(driver)
        assert await claim(worker) == ["there"]
        assert store.located().keys() == {"there"}
        assert (await driver.read(Count())).ready[Priority.NORMAL] == 0


@pytest.fixture
def engine_redis(store: Store) -> RedisStore:
    if not isinstance(store, RedisStore):
        pytest.skip("of Redis' keys")
    return store


# Workers


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        yield queue


@pytest.fixture
def ran(queue: JobQueue) -> list[Any]:
    """What the handlers were given."""
    ran: list[Any] = []

    @queue.register(Work)
    async def work(parameters: Work) -> None:
        ran.append(parameters)

    @queue.register(Other)
    async def other(parameters: Other) -> None:
        ran.append(parameters)

    return ran


async def test_workers_start_nothing_while_their_queue_is_paused_and_go_on_at_once(
    queue: JobQueue, ran: list[Any]
) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            workers = [Worker(queue, concurrency=4) for _ in range(2)]
            for worker in workers:
                tasks.start_soon(worker.run)
            await queue.push(Work(0))
            await eventually(lambda: ran)

            await queue.pause()
            assert await queue.is_paused()
            await queue.push_many([Work(number) for number in range(1, 20)])
            await everybody_has_looked(queue, workers)
            assert ran == [Work(0)]

            await queue.resume()
            await eventually(lambda: len(ran) == 20)
            assert not await queue.is_paused()
            for worker in workers:
                worker.stop()


async def everybody_has_looked(queue: JobQueue, workers: list[Worker]) -> None:
    """Wait until each has heard from the store once more, whatever it does now."""
    for worker in workers:
        assert worker._processor
        exchanger = worker._processor.sources[0].exchanger
        await eventually(partial(getattr, exchanger, "queue_paused"))


async def test_a_worker_that_is_started_on_a_paused_queue_waits(queue: JobQueue, ran: list[Any]) -> None:
    await queue.pause()
    await queue.push(Work(1))
    worker = Worker(queue)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker._processor and worker._processor.sources[0].exchanger.queue_paused)
            assert (worker.health.live, worker.health.ready) == (True, True)
            assert ran == []
            await queue.resume()
            await eventually(lambda: ran == [Work(1)])
            worker.stop()


async def test_workers_run_other_names_and_other_jobs_meanwhile(queue: JobQueue, ran: list[Any]) -> None:
    worker = Worker(queue, concurrency=2)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await queue.pause(name="Work")
            assert [await queue.is_paused(), await queue.is_paused("Work")] == [False, True]
            await queue.push_many([Work(number) for number in range(5)])
            held = await queue.push(Other(1), delay=0.05)
            assert await queue.hold(held) is Reply.HELD
            await queue.push(Other(2))
            await eventually(lambda: ran == [Other(2)])

            await queue.resume(JobName("Work", Work))
            await eventually(lambda: len(ran) == 6)
            assert await queue.unhold(held)
            await eventually(lambda: len(ran) == 7)
            worker.stop()

    assert ran[1:6] == [Work(number) for number in range(5)]
    assert (await queue.counts()).totals["completed"] == 7


@pytest.mark.parametrize("what", ["the queue", "a name", "jobs"])
async def test_a_worker_that_runs_until_idle_does_not_wait_for_what_may_not_start(
    queue: JobQueue, ran: list[Any], what: str
) -> None:
    stop: dict[str, Callable[[], Awaitable[object]]] = {
        "the queue": queue.pause,
        "a name": partial(queue.pause, "Work"),
        "jobs": partial(queue.hold_all, "ready"),
    }
    await queue.push_many([Work(1), Work(2)])
    await stop[what]()
    await queue.push(Other(1))
    with anyio.fail_after(20):
        await Worker(queue, lease=0.5).run(until_idle=True)
    assert ran == ([] if what == "the queue" else [Other(1)])

    await queue.resume()
    await queue.resume("Work")
    await queue.unhold_all("ready")
    with anyio.fail_after(20):
        await Worker(queue, lease=0.5).run(until_idle=True)
    assert {type(one) for one in ran} == {Work, Other}
    assert len(ran) == 3


async def test_a_job_that_runs_as_its_queue_is_paused_finishes(queue: JobQueue) -> None:
    began, finish = anyio.Event(), anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        began.set()
        await finish.wait()

    handle = await queue.push(Work())
    worker = Worker(queue)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await began.wait()
            await queue.pause()
            finish.set()
            while await handle.info() is not None:
                await anyio.lowlevel.checkpoint()
            worker.stop()
    await queue.resume()


# Both faces


async def test_many_jobs_are_held_and_let_go_by_a_filter(queue: JobQueue) -> None:
    await queue.push_many([Work(number) for number in range(5)] + [Other(1)])
    await queue.push_many([Work(9)], delay=60)
    assert await queue.hold_all("ready", name="Work") == 5
    assert await queue.hold_all("delayed") == 1
    assert [info.held for info in await queue.jobs(State.READY)] == [True] * 5 + [False]
    assert (await queue.pauses()).held == 6
    assert await queue.unhold_all("ready", text='"number":3') == 1
    assert await queue.unhold_all("ready", name="Other") == 0
    assert await queue.unhold_all("ready") == 4
    assert await queue.unhold_all("delayed") == 1
    assert (await queue.pauses()).held == 0


async def test_the_sync_face_does_the_same(store: Store) -> None:
    url = store.url if isinstance(store, RedisStore) else store.driver
    with sync.JobQueue(url, store.queue_name) as queue:
        queue.register(Work)(lambda _: None)
        handles = queue.push_many([Work(1), Work(2)])
        queue.pause()
        queue.pause("Work")
        assert [queue.is_paused(), queue.is_paused("Work"), queue.is_paused("Other")] == [True, True, False]
        info = queue.pauses()
        assert (info.since is not None, [*info.names], info.held) == (True, ["Work"], 0)
        assert queue.hold(handles[0]) is Reply.HELD
        assert queue.hold_all("ready") == 2
        assert queue.unhold(handles[0]) is True
        assert queue.unhold(handles[0]) is False
        assert queue.unhold_all("ready") == 1
        queue.resume()
        queue.resume("Work")
        assert queue.pauses() == type(info)(None, {}, 0)
