"""Threads of sync handlers: those that can't be killed are counted, and there is an end to them."""

import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from each_setting import store as store
from fleet import Fleet
from store import Begun, Store, eventually

from redisjobs import JobContext, JobHandle, JobQueue, Middleware, State, Worker, no_retry
from redisjobs.events import JobsCompleted
from redisjobs.events.middleware import CallNext, OutgoingJob, RunningJob
from redisjobs.worker.running.threads import ThreadTimes, _ThreadCall

pytestmark = pytest.mark.anyio


@dataclass
class Stuck:
    job_name: ClassVar[str] = "Stuck"
    number: int = 0


@dataclass
class Sync:
    job_name: ClassVar[str] = "Sync"


@dataclass
class Async:
    job_name: ClassVar[str] = "Async"


variable = contextvars.ContextVar("variable", default=0)


@dataclass
class Sets:
    """Parameters whose own code sets something in its context."""

    job_name: ClassVar[str] = "Sets"
    number: int = 0

    def __post_init__(self) -> None:
        variable.set(variable.get() + self.number)


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What the stuck handlers wait for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def queue(store: Store, let_go: threading.Event) -> AsyncIterator[JobQueue]:
    """A queue with a handler that outruns its timeout, a sync one and an async one."""
    async with JobQueue(store.driver, store.queue_name) as queue:
        begun = Begun()

        @queue.register(Stuck, timeout=0.2, retry=begun.retry)
        def stuck(_: Stuck) -> None:
            begun.note()
            let_go.wait(20)

        queue.register(Sync)(lambda _: None)

        @queue.register(Async)
        async def quick(_: Async) -> None: ...

        yield queue


async def gone(*jobs: JobHandle[Any]) -> None:
    """Wait until these jobs are done."""
    with anyio.fail_after(10):
        for job in jobs:
            while await job.info() is not None:
                await anyio.lowlevel.checkpoint()


@pytest.mark.slow
async def test_with_too_many_abandoned_threads_no_sync_handler_is_started_until_they_end(
    queue: JobQueue, let_go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs")
    worker = Worker(queue, concurrency=4, abandoned=2)
    await queue.push_many([Stuck(1), Stuck(2)])
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: "no sync handler is started" in worker.health.why)
            assert (worker.health.live, worker.health.ready) == (True, False)
            assert "2 threads of abandoned handlers still run" in worker.health.why

            waits = await queue.push(Sync())
            runs = await queue.push_many([Async(), Async()])
            await gone(*runs)
            info = await queue.get(waits)
            assert info is not None
            assert info.state in (State.READY, State.DELAYED, State.RUNNING)

            let_go.set()
            await gone(waits)
            assert worker.health.ready
            worker.stop()

    totals = (await queue.control.counts()).totals
    assert (totals["completed"], totals["dead"]) == (3, 2)
    assert totals["retried"] >= 1  # it was put off, a second each time
    said = [record.message for record in caplog.records if record.message.startswith("no sync handler is started")]
    assert len(said) == 1


async def test_a_job_that_finds_no_thread_spends_neither_attempt_nor_delivery(
    queue: JobQueue, store: Store
) -> None:
    await queue.push(Stuck())
    worker = Worker(queue, concurrency=1, abandoned=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: not worker.health.ready and "abandoned" in worker.health.why)
            waits = await queue.push(Sync())
            while not (waiting := await queue.control.jobs(State.DELAYED)):
                await anyio.lowlevel.checkpoint()
            worker.stop_now()

    assert [(info.job_id, info.attempt, info.deliveries, info.error) for info in waiting] == [(waits.id, 1, 0, "")]


@pytest.mark.slow
async def test_a_worker_that_runs_until_idle_waits_for_jobs_that_found_no_thread(
    queue: JobQueue, let_go: threading.Event
) -> None:
    await queue.push(Stuck())
    waits = await queue.push(Sync())
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(Worker(queue, concurrency=1, abandoned=1).run, until_idle=True))
            for _ in range(2):  # it was put off, and then again
                retried = (await queue.control.counts()).totals["retried"]
                while (await queue.control.counts()).totals["retried"] == retried:
                    await anyio.lowlevel.checkpoint()
            let_go.set()

    assert await waits.info() is None
    assert (await queue.control.counts()).totals["completed"] == 1


async def test_a_handler_in_a_thread_has_the_context_in_which_its_parameters_were_made(queue: JobQueue) -> None:
    seen: list[int] = []

    @queue.register(Sets)
    def sets(_: Sets) -> None:
        seen.append(variable.get())
        variable.set(100)

    await queue.push_many([Sets(7), Sets(7)])
    variable.set(0)
    with anyio.fail_after(10):
        await Worker(queue, concurrency=1).run(until_idle=True)
    assert seen == [7, 7]
    assert variable.get() == 0


async def test_a_handler_in_a_thread_is_in_no_event_loop_and_may_run_one(queue: JobQueue) -> None:
    ran: list[str] = []

    async def note(backend: str) -> None:
        await anyio.lowlevel.checkpoint()
        ran.append(backend)

    @queue.job(retry=no_retry())
    def runs_loops() -> None:
        for backend in ("asyncio", "trio"):
            anyio.run(note, backend, backend=backend)

    await runs_loops.push()
    with anyio.fail_after(10):
        await Worker(queue).run(until_idle=True)
    assert ran == ["asyncio", "trio"]


async def test_an_abandoned_thread_keeps_no_job_from_one_of_its_own(queue: JobQueue) -> None:
    worker = Worker(queue, concurrency=1, abandoned=5)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await queue.push(Stuck())
            while (await queue.control.counts()).totals["dead"] < 1:
                await anyio.lowlevel.checkpoint()
            await gone(await queue.push(Sync()))
            worker.stop()


async def test_a_worker_ends_though_the_application_has_taken_all_threads_of_the_default_limiter(
    queue: JobQueue, let_go: threading.Event
) -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    worker = Worker(queue)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(int(limiter.total_tokens)):
                tasks.start_soon(anyio.to_thread.run_sync, let_go.wait, 10)
            await eventually(lambda: not limiter.available_tokens)
            await worker.run(until_idle=True)
            assert not limiter.available_tokens
            let_go.set()


@pytest.mark.slow
async def test_another_worker_gets_the_jobs_of_one_without_threads(queue: JobQueue) -> None:
    await queue.push(Stuck())
    full, other = Worker(queue, concurrency=1, abandoned=1), Worker(queue)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(full.run)
            await eventually(lambda: "abandoned" in full.health.why)
            tasks.start_soon(other.run)
            jobs = await queue.push_many([Sync() for _ in range(20)])
            await gone(*jobs)
            full.stop_now()
            other.stop_now()


async def test_a_worker_without_threads_claims_nothing_if_all_its_handlers_need_one(
    queue: JobQueue, let_go: threading.Event
) -> None:
    del queue.definitions[Async.job_name]
    await queue.push(Stuck())
    hung = Worker(queue, concurrency=1, abandoned=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hung.run)
            await eventually(lambda: "abandoned" in hung.health.why)
            waits = await queue.push(Sync())
            await Worker(queue).run(until_idle=True)
            assert await waits.info() is None
            assert (await queue.control.counts()).totals["retried"] == 0

            let_go.set()
            await gone(await queue.push(Sync()))
            hung.stop_now()


async def test_a_supervised_worker_with_too_many_abandoned_threads_finishes_what_runs_and_ends(
    queue: JobQueue,
) -> None:
    finish = anyio.Event()
    started = anyio.Event()

    @queue.job
    async def long() -> None:
        started.set()
        await finish.wait()

    worker = Worker(queue, concurrency=2, abandoned=1, supervised=True)
    await long.push()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await started.wait()
            await queue.push(Stuck())
            await eventually(lambda: "abandoned" in worker.health.why)
            left = await queue.push(Async())
            finish.set()

    info = await queue.get(left)
    assert (worker.recycled, worker.hindered) == (True, False)
    assert info is not None
    assert info.state is State.READY


@pytest.mark.parametrize("setting", ["redis asyncio"])  # trio keeps threads from test to test
async def test_a_supervised_worker_that_the_system_gives_no_thread_ends_and_says_so(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name.startswith("AnyIO"):
            raise RuntimeError("can't start new thread")
        start(thread)

    worker = Worker(queue, concurrency=1, supervised=True)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    job = await queue.push(Sync())
    with anyio.fail_after(20):
        await worker.run()

    assert (worker.recycled, worker.hindered) == (True, True)
    info = await queue.get(job)
    assert info is not None
    assert info.attempt == 1


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["redis asyncio"])  # trio keeps threads from test to test
async def test_a_thread_that_cannot_be_started_is_not_the_jobs_failure(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[str] = []
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name.startswith(("AnyIO", "Trio")) and len(refused) < 2:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    worker = Worker(queue, concurrency=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker._current and worker._current.sources[0].member.opened)
            monkeypatch.setattr(threading.Thread, "start", no_thread)
            await gone(await queue.push(Sync()), await queue.push(Async()))
            worker.stop()

    totals = (await queue.control.counts()).totals
    assert len(refused) == 2
    assert totals.get("dead", 0) == 0
    assert totals["completed"] == 2


async def test_jobs_given_up_before_their_handler_began_leave_no_thread_behind(queue: JobQueue) -> None:
    """A thread that is asked for and then given up at once may never come to the handler: it is not counted."""
    worker = Worker(queue, concurrency=4, abandoned=4)

    @queue.job(timeout=1e-9, retry=no_retry(), name="at-once")
    def at_once() -> None: ...

    await queue.push_many([at_once.prepare() for _ in range(20)])
    with anyio.fail_after(20):
        await worker.run(until_idle=True)

    assert (await queue.control.counts()).totals["dead"] + (await queue.control.counts()).totals.get(
        "completed", 0
    ) == 20


@pytest.mark.parametrize("setting", ["redis asyncio"])
@pytest.mark.slow
async def test_a_process_with_too_many_abandoned_threads_is_replaced(fleet: Fleet, setting: str) -> None:
    (fleet.folder / "app.py").write_text(
        (fleet.folder / "app.py").read_text()
        + """

@queue.job(timeout=0.2)
def stuck() -> None:
    time.sleep(600)
"""
    )
    assert fleet.python("from app import *; asyncio.run(stuck.push())").wait(20) == 0
    fleet.command("--processes", "1", "--abandoned", "1", "--concurrency", "4")
    log = fleet.folder / "log"
    await eventually(lambda: log.read_text().count("started worker process") >= 2, within=30)
    fleet.push("a", "b")
    await eventually(lambda: fleet.labels("end") == {"a": 1, "b": 1}, within=20)
    assert "no sync handler can be started: this worker ends" in log.read_text()


@pytest.mark.parametrize("setting", ["memory asyncio"])
async def test_fewer_than_one_abandoned_thread_is_refused(queue: JobQueue) -> None:
    with pytest.raises(ValueError, match="abandoned=0"):
        Worker(queue, abandoned=0)


class _Interleaved:
    """A lock that lets something happen right after it was released the second time."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.lock, self.released, self.then = threading.Lock(), 0, then

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        self.released += 1
        if self.released == 2:
            self.then()


class HangsOnPush(Middleware):
    async def on_push(self, job: OutgoingJob) -> None:
        if job.name == Sync.job_name:
            await anyio.sleep_forever()


class Around(Middleware):
    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return await call_next()


@pytest.mark.parametrize(
    ("middleware", "returns"),
    [([], True), ([Around()], True), ([HangsOnPush()], False)],
    ids=["a coroutine that it returns", "such a coroutine within middleware", "a hook of what it pushes"],
)
async def test_the_timeout_of_a_sync_handler_goes_on_for_what_is_awaited_once_its_thread_has_ended(
    store: Store, middleware: list[Middleware], *, returns: bool
) -> None:
    async with JobQueue(store.driver, store.queue_name, middleware=middleware) as queue:
        queue.register(Sync)(lambda _: None)

        @queue.job(timeout=0.2, retry=no_retry())
        def hangs(context: JobContext) -> Any:
            return anyio.sleep_forever() if returns else context.push(Sync())

        await hangs.push()
        with anyio.fail_after(10):
            await Worker(queue, concurrency=2).run(until_idle=True)
        (letter,) = await queue.control.jobs(State.DEAD)

    assert letter.error.startswith("JobTimeout: the handler was still running after its timeout of 0.2 s")


async def test_what_a_sync_handler_returns_to_be_awaited_is_part_of_the_time_that_its_job_took(
    store: Store,
) -> None:
    ran: list[float] = []
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.job(name="sleeps")(lambda: anyio.sleep(0.1))
        queue.events.subscribe(JobsCompleted, lambda event: ran.extend(job.ran for job in event.jobs))
        await queue.push({}, "sleeps")
        await Worker(queue).run(until_idle=True)

    assert 0.09 < ran[0] < 5


def test_a_handler_that_is_given_up_as_it_returns_is_not_counted_out_either() -> None:
    ended: list[None] = []
    runs_on: list[bool] = []
    errand = _ThreadCall(lambda: None, ThreadTimes(), lambda: ended.append(None))
    errand._lock = _Interleaved(lambda: runs_on.append(errand.abandon()))  # type: ignore[assignment]

    errand.run()

    assert (runs_on, ended) == ([False], [])
