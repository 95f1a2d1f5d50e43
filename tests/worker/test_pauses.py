"""What may not start: paused queues and names, and held jobs, on memory and on every server at hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import anyio
import pytest
from store import MemoryStore, RedisStore, Store, eventually

from redisjobs import JobName, JobQueue, Reply, State, Worker, sync
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.model.changes import Change, Hold, Pause, Resume, Tidy, Unhold, Unpark
from redisjobs.model.driver import Consumer, Driver, Until
from redisjobs.model.job import Priority
from redisjobs.model.queries import Count, FindPauses, Pauses, Scan
from redisjobs.model.transitions import Exchange, NewJob
from redisjobs_proof.contract.acts import rows_of
from redisjobs_proof.contract.pausing import ids_of_claim, push, unpark

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


async def ids(driver: Driver, state: State = State.READY) -> list[str]:
    listed = [row.job_id for row in await rows_of(driver, state, 500)]
    if state is not State.RUNNING:
        scanned = (await driver.read(Scan(state))).rows
        assert [row.job_id for row in scanned] == listed
    return listed


# With redis-cli


async def test_a_queue_is_paused_by_the_key_alone(engine_store: RedisStore) -> None:
    store = engine_store
    store.admin.set(f"{store.prefix}paused", "junk")
    async with aclosing(store.driver), aclosing(store.consumer("w1")) as worker:
        await worker.open()
        await push(store.driver, job("a"))
        assert (await worker.exchange([], 5)).paused
        assert await store.driver.read(FindPauses()) == Pauses(0, {}, 0)
        store.admin.delete(f"{store.prefix}paused")
        assert await ids_of_claim(worker) == ["a"]


async def test_a_parked_entry_that_was_deleted_blocks_no_other_job(engine_store: RedisStore) -> None:
    store = engine_store
    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        await push(driver, job("gone"), job("there"))
        await driver.change(Pause("Work"))
        assert await ids_of_claim(worker) == []
        store.admin.xdel(store.stream(), store.located()["gone"].split()[1])
        await driver.change(Resume("Work"))
        await unpark(driver)
        assert await ids_of_claim(worker) == ["there"]
        store.admin.hdel(f"{store.prefix}jobs", "gone")
        assert (await driver.read(Count())).ready[Priority.NORMAL] == 0


async def test_a_read_that_had_to_make_the_group_again_brings_nothing_that_may_not_start(
    engine_store: RedisStore,
) -> None:
    store, until, found = engine_store, Until(), list[str]()

    async def wait(worker: Consumer) -> None:
        found.extend(lease.job_id for lease in await worker.wait(5, 5, until))

    def blocks() -> bool:
        return any("b" in client["flags"] and client["user"] == store.user for client in store.admin.client_list())

    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        for priority in Priority:
            store.admin.xgroup_destroy(store.stream(priority), "workers")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, worker)
            await eventually(blocks)
            await driver.change(Pause())
            await push(driver, job("a"))
        assert found == []
        await driver.change(Resume())
        assert await ids_of_claim(worker) == ["a"]


# Workers


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

            await queue.control.pause()
            assert await queue.control.is_paused()
            await queue.push_many([Work(number) for number in range(1, 20)])
            await everybody_has_looked(queue, workers)
            assert ran == [Work(0)]

            await queue.control.resume()
            await eventually(lambda: len(ran) == 20)
            assert not await queue.control.is_paused()
            for worker in workers:
                worker.stop()


async def everybody_has_looked(queue: JobQueue, workers: list[Worker]) -> None:
    """Wait until each has heard from the store once more, whatever it does now."""
    for worker in workers:
        assert worker._current
        claims = worker._current.sources[0].claims
        await eventually(partial(getattr, claims, "queue_paused"))


async def test_a_worker_that_is_started_on_a_paused_queue_waits(queue: JobQueue, ran: list[Any]) -> None:
    await queue.control.pause()
    await queue.push(Work(1))
    worker = Worker(queue)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker._current and worker._current.sources[0].claims.queue_paused)
            assert (worker.health.live, worker.health.ready) == (True, True)
            assert ran == []
            await queue.control.resume()
            await eventually(lambda: ran == [Work(1)])
            worker.stop()


async def test_workers_run_other_names_and_other_jobs_meanwhile(queue: JobQueue, ran: list[Any]) -> None:
    worker = Worker(queue, concurrency=2)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await queue.control.pause(name="Work")
            assert [await queue.control.is_paused(), await queue.control.is_paused("Work")] == [False, True]
            await queue.push_many([Work(number) for number in range(5)])
            held = await queue.push(Other(1), delay=0.05)
            assert await queue.control.hold(held) is Reply.HELD
            await queue.push(Other(2))
            await eventually(lambda: ran == [Other(2)])

            await queue.control.resume(JobName("Work", Work))
            await eventually(lambda: len(ran) == 6)
            assert await queue.control.unhold(held)
            await eventually(lambda: len(ran) == 7)
            worker.stop()

    assert ran[1:6] == [Work(number) for number in range(5)]
    assert (await queue.control.counts()).totals["completed"] == 7


@pytest.mark.parametrize("what", ["the queue", "a name", "jobs"])
async def test_a_worker_that_runs_until_idle_does_not_wait_for_what_may_not_start(
    queue: JobQueue, ran: list[Any], what: str
) -> None:
    stop: dict[str, Callable[[], Awaitable[object]]] = {
        "the queue": queue.control.pause,
        "a name": partial(queue.control.pause, "Work"),
        "jobs": partial(queue.control.hold_all, "ready"),
    }
    await queue.push_many([Work(1), Work(2)])
    await stop[what]()
    await queue.push(Other(1))
    with anyio.fail_after(20):
        await Worker(queue, lease=0.5).run(until_idle=True)
    assert ran == ([] if what == "the queue" else [Other(1)])

    await queue.control.resume()
    await queue.control.resume("Work")
    await queue.control.unhold_all("ready")
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
            await queue.control.pause()
            finish.set()
            while await handle.info() is not None:
                await anyio.lowlevel.checkpoint()
            worker.stop()
    await queue.control.resume()


# Both faces


async def test_many_jobs_are_held_and_let_go_by_a_filter(queue: JobQueue) -> None:
    await queue.push_many([Work(number) for number in range(5)] + [Other(1)])
    await queue.push_many([Work(9)], delay=60)
    assert await queue.control.hold_all("ready", name="Work") == 5
    assert await queue.control.hold_all("delayed") == 1
    assert [info.held for info in await queue.control.jobs(State.READY)] == [True] * 5 + [False]
    assert (await queue.control.pauses()).held == 6
    assert await queue.control.unhold_all("ready", text='"number":3') == 1
    assert await queue.control.unhold_all("ready", name="Other") == 0
    assert await queue.control.unhold_all("ready") == 4
    assert await queue.control.unhold_all("delayed") == 1
    assert (await queue.control.pauses()).held == 0


async def test_the_sync_face_does_the_same(store: Store) -> None:
    url = store.url if isinstance(store, RedisStore) else store.driver
    with sync.JobQueue(url, store.queue_name) as queue:
        queue.register(Work)(lambda _: None)
        handles = queue.push_many([Work(1), Work(2)])
        queue.control.pause()
        queue.control.pause("Work")
        assert [queue.control.is_paused(), queue.control.is_paused("Work"), queue.control.is_paused("Other")] == [
            True,
            True,
            False,
        ]
        info = queue.control.pauses()
        assert (info.since is not None, [*info.names], info.held) == (True, ["Work"], 0)
        assert queue.control.hold(handles[0]) is Reply.HELD
        assert queue.control.hold_all("ready") == 2
        assert queue.control.unhold(handles[0]) is True
        assert queue.control.unhold(handles[0]) is False
        assert queue.control.unhold_all("ready") == 1
        queue.control.resume()
        queue.control.resume("Work")
        assert queue.control.pauses() == type(info)(None, {}, 0)


async def test_what_was_resumed_is_given_back_though_another_walk_went_on_meanwhile(
    driver: Driver, worker: Consumer
) -> None:
    for start in range(0, 800, 400):
        await push(driver, *(job(f"{number:04}") for number in range(start, start + 400)))
    await driver.change(Pause("Work"))
    assert await ids_of_claim(worker) == []
    after = await driver.change(Unpark())  # of an operator who resumes another name
    await driver.change(Resume("Work"))  # and the process that resumed it dies
    while after:
        after = await driver.change(Unpark(after))

    tidied = await driver.change(Tidy())
    while tidied.after:
        tidied = await driver.change(Tidy(tidied.after))
    if isinstance(driver, MemoryDriver):
        await unpark(driver)  # it dies with the process that resumes
    assert await ids_of_claim(worker) == [f"{number:04}" for number in range(800)]


async def test_a_job_is_let_go_whose_note_was_taken_away_with_redis_cli(engine_store: RedisStore) -> None:
    store = engine_store
    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        await push(driver, job("a"))
        await driver.change(Hold("a"))
        assert await ids_of_claim(worker) == []
        store.admin.delete(f"{store.prefix}held")
        assert await driver.change(Unhold("a")) is Reply.OK
        assert await ids_of_claim(worker) == ["a"]
        assert await driver.change(Unhold("a")) is Reply.NOT_FOUND


async def test_a_claim_passes_over_about_a_megabyte_of_what_was_handed_back(engine_store: RedisStore) -> None:
    store = engine_store
    async with aclosing(store.driver) as driver, aclosing(store.consumer("w1")) as worker:
        await worker.open()
        for _ in range(12):
            store.put({"name": "Work", "parameters": "{}", "padding": b"x" * 400_000})
        assert len(await ids_of_claim(worker)) == 12
        await worker.release(refund=True, watch=False)
        await worker.open()
        await driver.change(Pause("Work"))

        answer = await worker.exchange([], 50)
        assert (answer.leases, answer.more) == ([], True)
        assert [consumer for _, consumer, _ in store.pending()].count("parked") == 3
        assert await ids_of_claim(worker) == []
        assert [consumer for _, consumer, _ in store.pending()].count("parked") == 12
        await driver.change(Resume("Work"))
        await unpark(driver)
        assert len(await ids_of_claim(worker)) == 12


@asynccontextmanager
async def relay(target: str, caught: anyio.Event, go_on: anyio.Event) -> AsyncIterator[str]:
    """A way to a server on which the first plain read of new jobs comes later than what was sent with it."""
    host, port = target.rpartition("@")[2].split("/")[0].split(":")
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                before, read, after = chunk.partition(b"$10\r\nXREADGROUP")
                if read and b"BLOCK" not in after and not caught.is_set():
                    before, count = before[: before.rindex(b"*")], before[before.rindex(b"*") :]
                    writer.write(before)
                    caught.set()
                    await go_on.wait()
                    chunk = count + read + after
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        writers.extend((writer, back))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield target.replace(f":{port}/", f":{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("stop", [Pause(), Pause("Work"), Hold("a")])
async def test_a_job_does_not_start_that_was_stopped_between_the_settle_and_the_read(
    engine_store: RedisStore, stop: Change[Any]
) -> None:
    store = engine_store
    caught, go_on, answers = anyio.Event(), anyio.Event(), list[Exchange]()

    async def exchange(worker: Consumer) -> None:
        answers.append(await worker.exchange([], 5))

    async with relay(store.url, caught, go_on) as url, aclosing(store.driver) as driver:
        late = RedisDriver(url, store.queue_name)
        async with aclosing(late), aclosing(late.consumer("w1", lease=15, max_deliveries=3)) as worker:
            await worker.open()
            await worker.exchange([], 5)
            await push(driver, job("a"))
            await worker.exchange([], 0)  # hears of it
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(exchange, worker)
                    await caught.wait()
                    assert await driver.change(stop) in (Reply.OK, Reply.HELD)
                    go_on.set()
            assert not answers[0].leases
            await driver.change(Unhold("a") if isinstance(stop, Hold) else Resume(getattr(stop, "name", "")))
            await unpark(driver)
            assert await ids_of_claim(worker) == ["a"]


async def test_a_worker_that_runs_until_idle_ends_though_its_queue_is_paused_as_it_works(queue: JobQueue) -> None:
    began, finish = anyio.Event(), anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        began.set()
        await finish.wait()

    await queue.push(Work())
    worker = Worker(queue, concurrency=2, lease=0.5)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(worker.run, until_idle=True))
            await began.wait()
            await queue.control.pause()
            await everybody_has_looked(queue, [worker])
            finish.set()
    assert (await queue.control.counts()).totals["completed"] == 1
    await queue.control.resume()


async def test_a_worker_of_several_queues_runs_until_idle_though_one_is_paused(
    queue: JobQueue, ran: list[Any]
) -> None:
    async with JobQueue("memory://", "another") as another:

        @another.job
        async def remind() -> None:
            ran.append("remind")

        await queue.control.pause()
        await queue.push(Work(1))
        for _ in range(3):
            await remind.push()
        with anyio.fail_after(20):
            await Worker([queue, another], concurrency=1, lease=0.5).run(until_idle=True)
        assert ran == ["remind"] * 3
    await queue.control.resume()
    await queue.control.cancel_all("ready")


async def test_a_worker_that_is_not_told_that_its_queue_is_resumed_asks_within_a_lease(
    store: Store, queue: JobQueue, ran: list[Any]
) -> None:
    worker = Worker(queue, lease=0.5)
    await queue.control.pause()
    await queue.push(Work(1))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker._current and worker._current.sources[0].claims.queue_paused)
            if isinstance(store, RedisStore):
                store.admin.delete(f"{store.prefix}paused")
            else:
                assert isinstance(store, MemoryStore)
                store.memory.paused = None
            await eventually(lambda: ran == [Work(1)], within=15)
            worker.stop()
