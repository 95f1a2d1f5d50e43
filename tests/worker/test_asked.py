"""What a worker does when an operator asks it to be quiet, to go on, or to stop."""

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import anyio
import pytest
from store import Heart, Store, eventually
from two_queues import Seen, Work

from redisjobs import JobContext, JobQueue, Reply, Worker
from redisjobs.drivers import sync_side
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.model.changes import AskWorker, Wish
from redisjobs.model.info import WorkerInfo
from redisjobs.model.transitions import Exchange
from redisjobs.worker.source.source import Source

pytestmark = pytest.mark.anyio

LOGGER = "redisjobs.worker"


@asynccontextmanager
async def running_once_ready(worker: Worker) -> AsyncIterator[anyio.Event]:
    """A worker that has started; the event is set once its run has returned."""
    ended = anyio.Event()

    async def run() -> None:
        await worker.run()
        ended.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(lambda: worker.health.ready)
            yield ended
            if not ended.is_set():
                worker.stop()


async def info_of(queue: JobQueue, worker: Worker) -> WorkerInfo:
    (info,) = [info for info in await queue.control.workers() if info.worker_id in worker.worker_ids]
    return info


async def is_quiet(queue: JobQueue, worker: Worker) -> bool:
    return (await info_of(queue, worker)).quiet


async def is_ready(queue: JobQueue, number: int) -> bool:
    counts = await queue.control.counts()
    return (sum(counts.ready.values()), counts.running) == (number, 0)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the store says so."""
    with anyio.fail_after(10):
        while not await condition():  # noqa: ASYNC110  (the store sets no event here)
            await anyio.sleep(0.01)


async def until_quiet(worker: Worker, *, is_so: bool = True) -> None:
    await eventually(lambda: ("quiet" in worker.health.why) == is_so)


async def test_a_quiet_worker_claims_nothing_while_its_jobs_go_on_until_it_is_to_go_on(
    queue: JobQueue, seen: Seen
) -> None:
    seen.handle(queue)
    seen.may_end = anyio.Event()
    worker = Worker(queue, concurrency=5)
    async with running_once_ready(worker):
        await queue.push(Work(1))
        await eventually(lambda: len(seen.started) == 1)

        assert await queue.control.quiet_worker(worker.worker_id) is Reply.OK
        assert (await info_of(queue, worker)).quiet
        await until_quiet(worker)
        await queue.push_many([Work(2), Work(3)])
        seen.may_end.set()
        await eventually(lambda: len(seen.ended) == 1)
        await until(lambda: is_ready(queue, 2))
        assert len(seen.started) == 1
        assert worker.health.ready

        assert await queue.control.resume_worker(await info_of(queue, worker)) is Reply.OK
        await eventually(lambda: len(seen.ended) == 3)
        info = await info_of(queue, worker)
        assert (info.quiet, info.stopping) == (False, False)


async def test_a_quiet_worker_still_promotes_and_recovers_jobs_for_others(store: Store, seen: Seen) -> None:
    async with JobQueue(store.driver, store.queue_name) as queue:
        seen.handle(queue)
        lost = store.consumer("lost", lease=0.3)
        await lost.open()
        worker = Worker(queue, lease=0.6)
        async with running_once_ready(worker):
            await queue.control.quiet_worker(worker.worker_id)
            await until_quiet(worker)
            await queue.push(Work(1))
            assert len((await lost.exchange([], 1)).leases) == 1
            await queue.push(Work(2), delay=0.2)

            await until(lambda: is_ready(queue, 2))
            assert seen.started == []
        await lost.aclose()


async def test_a_claim_that_was_under_way_starts_no_job_of_a_quiet_worker(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it brings goes back, and keeps its place and its deliveries."""
    queue = seen.handle(JobQueue(MemoryDriver(), "q"))
    arrived, go_on = anyio.Event(), anyio.Event()
    exchange = MemoryConsumer.exchange

    async def slow(consumer: MemoryConsumer, *args: Any, **options: Any) -> Exchange:
        answer = await exchange(consumer, *args, **options)
        if answer.leases:
            arrived.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(MemoryConsumer, "exchange", slow)
    worker = Worker(queue)
    async with queue:
        await queue.push(Work(1), job_id="a")
        async with running_once_ready(worker):
            await arrived.wait()
            await queue.control.quiet_worker(worker.worker_id)
            await until_quiet(worker)
            go_on.set()
            await until(lambda: is_ready(queue, 1))
            info = await queue.get("a")
            assert info is not None
            assert (str(info.state), info.deliveries, info.history, seen.started) == ("ready", 0, (), [])


@pytest.mark.parametrize("wish", ["quiet_worker", "stop_worker"])
async def test_a_wish_whose_notification_is_lost_is_heard_by_the_next_heartbeat(
    store: Store, seen: Seen, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    notified = Source.notified
    monkeypatch.setattr(Source, "notified", lambda source, hint: hint.kind != "wish" and notified(source, hint))
    async with JobQueue(store.driver, store.queue_name) as queue:
        worker = Worker(seen.handle(queue), lease=0.6)
        async with running_once_ready(worker) as ended:
            assert await getattr(queue.control, wish)(worker.worker_id) is Reply.OK
            await (until_quiet(worker) if wish == "quiet_worker" else ended.wait())


async def test_a_wish_that_is_repeated_is_obeyed_once(
    queue: JobQueue, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    worker = Worker(seen.handle(queue), lease=0.3)
    async with running_once_ready(worker):
        for _ in range(3):
            await queue.control.quiet_worker(worker.worker_id)
            await until_quiet(worker)
        await queue.control.resume_worker(worker.worker_id)
        await until_quiet(worker, is_so=False)

    assert caplog.text.count("an operator asked this worker to be quiet") == 1
    assert caplog.text.count("an operator asked this worker to claim jobs again") == 1


async def test_a_worker_that_is_asked_to_stop_ends_its_jobs_and_returns(
    queue: JobQueue, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    seen.handle(queue)
    seen.may_end = anyio.Event()
    calls = list[bool]()
    worker = Worker(queue)
    worker.when_asked = lambda: calls.append(worker.asked_by_operator)
    async with running_once_ready(worker) as ended:
        await queue.push(Work(1))
        await eventually(lambda: len(seen.started) == 1)

        assert await queue.control.stop_worker(worker.worker_id) is Reply.OK
        await eventually(lambda: "stopping" in worker.health.why)
        assert (await info_of(queue, worker)).stopping
        assert await queue.control.resume_worker(worker.worker_id) is Reply.STOPPING
        assert await queue.control.stop_worker(worker.worker_id) is Reply.OK
        await queue.push(Work(2))
        seen.may_end.set()
        await ended.wait()

        assert await queue.control.workers() == []
        assert await queue.control.stop_worker(worker.worker_id) is Reply.NOT_FOUND
    assert (len(seen.ended), calls) == (1, [True])
    await eventually(lambda: "an operator asked this worker to stop; waiting for 1 job until" in caplog.text)
    assert caplog.text.count("an operator asked this worker to stop") == 1

    async with running_once_ready(worker) as ended:  # the wish was for that run
        await eventually(lambda: len(seen.ended) == 2)
        assert not worker.asked_by_operator


async def test_jobs_that_outlast_the_grace_of_an_asked_stop_go_back(queue: JobQueue, seen: Seen) -> None:
    seen.handle(queue)
    seen.may_end = anyio.Event()
    worker = Worker(queue, grace=0)
    async with running_once_ready(worker) as ended:
        await queue.push(Work(1))
        await eventually(lambda: len(seen.started) == 1)
        await queue.control.stop_worker(worker.worker_id)
        await ended.wait()
    assert sum((await queue.control.counts()).ready.values()) == 1


async def test_a_stop_ends_a_worker_within_its_grace_though_it_waited_for_its_last_jobs_for_any_time(
    queue: JobQueue, seen: Seen
) -> None:
    seen.handle(queue)
    seen.may_end = anyio.Event()
    worker = Worker(queue, grace=0, max_jobs=1)
    async with running_once_ready(worker) as ended:
        await queue.push(Work(1))
        await eventually(lambda: "stopping" in worker.health.why)
        assert not ended.is_set()
        await queue.control.stop_worker(worker.worker_id)
        await ended.wait()
    assert worker.asked_by_operator


async def test_a_stop_is_heard_though_a_handler_blocks_the_event_loop(store: Store) -> None:
    """So the command line can end the process by force when the grace is over."""
    heard = threading.Event()
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.job
        async def block(context: JobContext) -> None:
            with closing(sync_side(store.driver)) as driver:
                driver.change(AskWorker(context.worker_id, Wish.STOP))
            assert heard.wait(5)

        worker = Worker(queue, lease=0.6)
        worker.when_asked = heard.set
        async with running_once_ready(worker) as ended:
            await block.push()
            await ended.wait()
        assert (await queue.control.counts()).totals["completed"] == 1


# Under another id


async def test_a_quiet_worker_that_was_taken_for_dead_stays_quiet_under_its_new_id(
    store: Store, seen: Seen
) -> None:
    async with JobQueue(store.driver, store.queue_name) as queue:
        worker = Worker(seen.handle(queue), lease=0.6)
        async with running_once_ready(worker):
            first = worker.worker_id
            await queue.control.quiet_worker(first)
            await until_quiet(worker)
            await queue.push(Work(1))
            with closing(Heart(store.consumer(first))) as dead:
                assert dead.release() == 0  # and it is fenced

            await eventually(lambda: worker.worker_id != first, within=15)
            assert await queue.control.quiet_worker(first) is Reply.NOT_FOUND
            await until(lambda: is_quiet(queue, worker))
            assert seen.started == []

            assert await queue.control.resume_worker(worker.worker_id) is Reply.OK
            await eventually(lambda: len(seen.ended) == 1)


# Several queues


async def test_a_worker_of_several_queues_is_quiet_for_the_queue_that_asked_and_stops_for_all(
    queues: tuple[JobQueue, JobQueue], seen: Seen
) -> None:
    first, second = queues
    worker = Worker([first, second])
    async with running_once_ready(worker) as ended:
        await first.control.quiet_worker(worker.worker_id)
        await until_quiet(worker)
        assert f"quiet in queue '{first.name}'" in worker.health.why
        assert [(await info_of(each, worker)).quiet for each in queues] == [True, False]
        for each in queues:
            await each.push(Work(1))
        await eventually(lambda: len(seen.ended) == 1)
        assert seen.ended == [second.name]

        await second.control.stop_worker(worker.worker_id)
        await ended.wait()
    assert [await each.control.workers() for each in queues] == [[], []]
    assert sum((await first.control.counts()).ready.values()) == 1


# Until idle


async def test_a_quiet_run_until_idle_ends_as_with_a_paused_queue_once_its_own_jobs_have_ended(
    queue: JobQueue, seen: Seen
) -> None:
    seen.handle(queue)
    seen.may_end = anyio.Event()
    worker = Worker(queue, concurrency=1, lease=0.6)
    await queue.push_many([Work(1), Work(2)])
    ended = anyio.Event()

    async def run() -> None:
        await worker.run(until_idle=True)
        ended.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(lambda: len(seen.started) == 1)
            await queue.control.quiet_worker(worker.worker_id)
            await until_quiet(worker)
            assert not ended.is_set()
            seen.may_end.set()
            await ended.wait()
    assert (len(seen.ended), sum((await queue.control.counts()).ready.values())) == (1, 1)


# In a program


async def test_a_program_goes_on_without_the_worker_of_its_service_that_was_asked_to_stop(
    queue: JobQueue, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    async with seen.handle(queue).service() as service:
        (worker,) = await queue.control.workers()
        await queue.control.stop_worker(worker)
        await eventually(lambda: not service.health.ready)
        await eventually(lambda: "goes on without a worker" in caplog.text)
        await queue.push(Work(1))
    assert service.error is None
    assert seen.started == []


def test_what_names_no_worker_is_an_error_where_it_is_given() -> None:
    from redisjobs.sync import JobQueue as SyncJobQueue

    with SyncJobQueue("memory://", "q") as queue:
        with pytest.raises(
            TypeError, match=r"^worker=5: give the id of a worker, or one of `control.workers\(\)`$"
        ):
            queue.control.stop_worker(5)  # type: ignore[arg-type]
        assert queue.control.quiet_worker("") is queue.control.resume_worker("no such") is Reply.NOT_FOUND
