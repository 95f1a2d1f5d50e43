"""Middleware takes part in what happens to jobs: what it does is the job's, what it breaks ends no worker."""

import asyncio
import contextvars
import gc
import logging
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import anyio
import anyio.lowlevel
import process_handlers as handlers
import pytest
from each_setting import store as store
from process_handlers import Do
from results import drain
from store import Begun, Store, eventually, lease_at
from tenacity import stop_after_attempt, wait_none

from redisjobs import (
    JobContext,
    JobInfo,
    JobQueue,
    Middleware,
    RedisJobsError,
    RetryPolicy,
    State,
    Unavailable,
    Worker,
    no_retry,
    sync,
)
from redisjobs.errors import QueueFull
from redisjobs.events import JobsCompleted, JobsDead, JobsRetried, SettledJob
from redisjobs.events.middleware import CallNext, ClaimedJob, OutgoingJob, RunningJob
from redisjobs.model.context import set_message_sink
from redisjobs.model.outcome import Done, Outcome, Raised
from redisjobs.model.transitions import Reply
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.running import middleware
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.messages import Messages
from redisjobs.worker.running.middleware import finder
from redisjobs.worker.running.threads import NoThread, Threads

pytestmark = pytest.mark.anyio

TWICE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(2))
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@dataclass
class Odd:
    job_name: ClassVar[str] = "Odd"
    number: int = 0


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name, retry=no_retry()) as queue:
        yield queue


async def info_of(queue: JobQueue, job: Any) -> JobInfo:
    info = await queue.get(job)
    assert info is not None
    return info


class Around(Middleware):
    """Says what it does in a list."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self.said = said

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        self.said.append(f"{self.name} before")
        try:
            returned = await call_next()
        except BaseException as error:
            self.said.append(f"{self.name} {type(error).__name__}")
            raise
        self.said.append(f"{self.name} after")
        return returned


class Calls(Middleware):
    """Has one hook around handlers, which a test gives."""

    def __init__(self, around: Callable[[RunningJob, JobContext, CallNext], Awaitable[Any]]) -> None:
        self._around = around

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return await self._around(job, context, call_next)


# What is not used is not called


async def test_without_middleware_a_slot_calls_the_function_that_was_registered(queue: JobQueue) -> None:
    async def work(_: Work, context: JobContext) -> None: ...

    queue.register(Work)(work)
    queue.add_middleware(OnPush(lambda _: None))
    worker_run = WorkerRun([Worker(queue).settings])
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker_run.run)
            await eventually(lambda: worker_run.health.ready)
            (source,) = worker_run.sources
            found = source.settler.find("Work")
            worker_run.stop(0)

    assert found is queue.definitions["Work"]
    assert found.call is work
    assert source.settler.find("Odd") is None


async def test_hooks_that_are_not_overridden_are_neither_called_nor_listened_for(queue: JobQueue) -> None:
    queue.add_middleware(Middleware())
    queue.add_middleware(Around("m", []))

    assert queue._on_push == ()
    logging.getLogger("redisjobs.worker").setLevel(logging.WARNING)
    try:
        queue.register(Work)(lambda _: None)
        wanted: list[bool] = []
        queue.register(Odd)(lambda _: wanted.append(queue.events.wanted(JobsCompleted)))
        await queue.push(Odd())
        await drain(queue)
    finally:
        logging.getLogger("redisjobs.worker").setLevel(logging.NOTSET)
    assert wanted == [False]


# Around a handler


async def test_the_first_middleware_is_outermost_and_a_workers_own_is_inside(queue: JobQueue) -> None:
    said: list[str] = []
    queue.add_middleware(Around("first", said))
    queue.add_middleware(Around("second", said))
    queue.register(Work)(lambda _: said.append("handler"))
    await queue.push(Work())

    await drain(queue, middleware=[Around("own", said)])

    order = ["first", "second", "own"]
    assert said == [*(f"{m} before" for m in order), "handler", *(f"{m} after" for m in reversed(order))]


def test_middleware_can_be_given_to_a_queue_as_it_is_made() -> None:
    one, two = Middleware(), Middleware()

    assert JobQueue("memory://", middleware=[one, two]).middleware == (one, two)
    assert sync.JobQueue("memory://", middleware=[one]).middleware == (one,)


async def test_it_is_told_of_the_job_and_call_next_gives_what_the_handler_returned(queue: JobQueue) -> None:
    told: list[Any] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        told.append((job.job_id, job.name, job.parameters, dict(context.headers), await call_next()))

    queue.add_middleware(Calls(around))

    @queue.register(Work)
    async def work(work: Work) -> str:
        return f"async {work.number}"

    @queue.register(Odd)
    def odd(odd: Odd) -> str:
        return f"sync {odd.number}"

    @queue.job
    def later(number: int) -> Any:
        async def wait() -> str:
            await anyio.lowlevel.checkpoint()
            return f"later {number}"

        return wait()

    await queue.push(Work(1), job_id="a", headers={"trace": "x"})
    await queue.push(Odd(2), job_id="b")
    await later.options(job_id="c").push(3)

    await drain(queue, concurrency=1)

    assert told == [
        ("a", "Work", Work(1), {"trace": "x"}, "async 1"),
        ("b", "Odd", Odd(2), {}, "sync 2"),
        ("c", "later", {"number": 3}, {}, "later 3"),
    ]
    assert (await queue.control.counts()).totals["completed"] == 3


@pytest.mark.parametrize("in_thread", [False, True])
async def test_what_it_sets_in_its_context_the_handler_sees_and_no_other_job_does(
    queue: JobQueue, in_thread: bool
) -> None:
    seen: list[str] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        seen.append(f"around {variable.get()}")
        variable.set(job.job_id)
        await anyio.lowlevel.checkpoint()
        await call_next()

    async def work(_: Work) -> None:
        seen.append(variable.get())

    queue.add_middleware(Calls(around))
    queue.register(Work)((lambda _: seen.append(variable.get())) if in_thread else work)
    for job_id in ("a", "b"):
        await queue.push(Work(), job_id=job_id)

    await drain(queue, concurrency=1)

    assert seen == ["around ", "a", "around ", "b"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_error_of_its_own_is_the_jobs_failure_and_its_retry_policy_decides(
    queue: JobQueue, in_thread: bool
) -> None:
    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        await call_next()
        raise ValueError("its own")

    async def work(_: Work) -> None: ...

    queue.add_middleware(Calls(around))
    queue.register(Work, retry=TWICE)((lambda _: None) if in_thread else work)
    job = await queue.push(Work())

    await drain(queue)

    info = await info_of(queue, job)
    assert (info.state, info.reason, info.attempt) == (State.DEAD, "failed", 2)
    assert info.error == "ValueError: its own"


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_error_of_the_handler_passes_through_and_one_that_is_caught_is_none(
    queue: JobQueue, in_thread: bool
) -> None:
    said: list[str] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        if job.parameters.number:
            with suppress(ValueError):
                await call_next()
        else:
            await call_next()

    async def work(_: Work) -> None:
        raise ValueError("the handler's")

    def sync_work(_: Work) -> None:
        raise ValueError("the handler's")

    queue.add_middleware(Calls(around))
    queue.add_middleware(Around("inside", said))
    queue.register(Work)(sync_work if in_thread else work)
    passed, caught = await queue.push_many([Work(0), Work(1)])

    await drain(queue, concurrency=1)

    assert (await info_of(queue, passed)).error == "ValueError: the handler's"
    assert await queue.get(caught) is None
    assert said == ["inside before", "inside ValueError"] * 2


async def test_without_a_call_the_handler_does_not_run_and_the_job_is_done(queue: JobQueue) -> None:
    ran: list[int] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None: ...

    queue.add_middleware(Calls(around))
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work())

    await drain(queue)

    assert ran == []
    assert (await queue.control.counts()).totals["completed"] == 1


async def twice(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
    await call_next()
    await call_next()


async def at_once(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
    first = call_next()
    try:
        call_next()
    finally:
        await first


@pytest.mark.parametrize("around", [twice, at_once])
async def test_a_second_call_is_an_error_and_the_handler_has_run_once(queue: JobQueue, around: Any) -> None:
    ran: list[int] = []
    queue.add_middleware(Calls(around))
    queue.register(Work)(lambda work: ran.append(work.number))
    job = await queue.push(Work(1))

    await drain(queue)

    assert ran == [1]
    assert (await info_of(queue, job)).error.startswith("RuntimeError: call_next runs a job's handler once")


async def test_a_call_after_its_end_is_an_error_and_runs_nothing(queue: JobQueue) -> None:
    ran: list[int] = []
    kept: list[CallNext] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        kept.append(call_next)

    queue.add_middleware(Calls(around))
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work(1))
    await drain(queue)

    with pytest.raises(RuntimeError, match="while around runs"):
        await kept[0]()
    assert ran == []


async def forgets(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
    call_next()


async def returns_it(job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
    return call_next()


@pytest.mark.parametrize("around", [forgets, returns_it])
async def test_a_call_that_is_not_awaited_is_an_error_for_else_the_job_would_be_lost(
    queue: JobQueue, around: Any
) -> None:
    queue.add_middleware(Calls(around))
    queue.register(Work)(lambda _: None)
    job = await queue.push(Work(1))

    with warnings.catch_warnings(action="error"):
        await drain(queue)

    assert "did not await call_next()" in (await info_of(queue, job)).error


async def test_it_may_call_from_a_task_of_its_own_under_a_limit_of_its_own(queue: JobQueue) -> None:
    said: list[str] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        async def run() -> None:
            said.append(f"returned {await call_next()}")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)

    queue.add_middleware(Calls(around))
    queue.register(Odd)(lambda _: "from a thread")

    @queue.register(Work)
    async def work(_: Work) -> str:
        await anyio.lowlevel.checkpoint()
        return "from the loop"

    await queue.push_many([Work(), Odd()])
    await drain(queue, concurrency=1)

    assert said == ["returned from the loop", "returned from a thread"]


@pytest.mark.parametrize("place", ["around", "handler", "thread"])
async def test_a_timeout_cancels_it_as_the_handler_and_is_the_jobs_failure(queue: JobQueue, place: str) -> None:
    said: list[str] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        try:
            if place == "around":
                await anyio.sleep_forever()
            await call_next()
        except anyio.get_cancelled_exc_class():
            said.append(f"cancelled {variable.get()}")
            raise

    async def work(_: Work) -> None:
        await anyio.sleep_forever()

    begun = Begun()

    def sync_work(_: Work, context: JobContext) -> None:
        begun.note()
        said.clear()
        variable.set("the thread's")
        while not context.cancelled:
            time.sleep(0.001)

    queue.add_middleware(Calls(around))
    if place == "thread":
        queue.register(Work, timeout=0.05, retry=begun.retry)(sync_work)
    else:
        queue.register(Work, timeout=0.05)(work)
    job = await queue.push(Work())

    await drain(queue)

    assert said == ["cancelled "]
    assert (await info_of(queue, job)).error.startswith("JobTimeout")


async def test_a_cancel_and_a_stop_reach_it_as_they_reach_a_handler(queue: JobQueue) -> None:
    said: list[str] = []
    queue.add_middleware(Around("m", said))
    begun: list[int] = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        begun.append(work.number)
        await anyio.sleep_forever()

    cancelled, stopped = await queue.push_many([Work(0), Work(1)])
    worker = Worker(queue, grace=0, lease=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: len(begun) == 2)
            assert await cancelled.cancel() is Reply.CANCELLING
            await eventually(lambda: len(said) == 3)
            worker.stop()

    assert len(said) == 4
    assert await queue.get(cancelled) is None
    info = await info_of(queue, stopped)
    assert (info.state, info.deliveries) == (State.READY, 0)


async def test_one_that_is_added_while_a_worker_runs_is_for_its_next_run(queue: JobQueue) -> None:
    said: list[str] = []

    @queue.register(Work)
    def work(_: Work) -> None:
        if len(queue.middleware) == 1:
            queue.add_middleware(Around("late", said))

    queue.add_middleware(Around("first", said))
    worker = Worker(queue, concurrency=1)
    await queue.push_many([Work(), Work()])
    await worker.run(until_idle=True)
    assert said == ["first before", "first after"] * 2
    said.clear()

    await queue.push(Work())
    await worker.run(until_idle=True)

    assert said == ["first before", "late before", "late after", "first after"]


async def test_a_handler_that_is_registered_while_a_worker_runs_has_it_too(queue: JobQueue) -> None:
    said: list[str] = []
    queue.add_middleware(Around("m", said))

    @queue.register(Work)
    async def work(_: Work) -> None:
        queue.register(Odd)(lambda _: said.append("odd"))
        await queue.push(Odd())

    await queue.push(Work())
    await drain(queue)

    assert said == ["m before", "m after", "m before", "odd", "m after"]


class Swallows(Middleware):
    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        with suppress(BaseException):
            await call_next()


async def test_a_job_that_finds_no_thread_is_put_off_whatever_the_middleware_makes_of_that(
    queue: JobQueue,
) -> None:
    ran: list[int] = []
    queue.add_middleware(Swallows())
    queue.register(Work)(lambda work: ran.append(work.number))
    threads = Threads(1, lambda: None)
    threads.full = True
    found = finder(queue.definitions, queue.middleware)("Work")
    assert found is not None
    context, runtime = a_context(), cast(Any, SimpleNamespace(threads=threads))
    owner = cast(Any, SimpleNamespace(thread_ended=lambda run: None))
    run = Execution(lease_at(2, "1-1", 1, "a"), Worker(queue).settings, runtime, owner)
    set_message_sink(context, Messages(run))

    with pytest.raises(NoThread):
        await found.call(Work(1), context)
    threads.full = False
    await found.call(Work(2), context)

    assert ran == [2]


@pytest.mark.slow
async def test_a_job_that_found_no_thread_runs_once_there_is_one(queue: JobQueue) -> None:
    ran, ended = list[int](), list[Any]()
    release = threading.Event()
    queue.add_middleware(Swallows())

    @queue.register(Odd, timeout=0.5)  # time enough for its thread to begin on a busy machine
    def stuck(_: Odd) -> None:
        release.wait()

    @queue.job
    async def other() -> None:
        """Needs no thread, so the worker goes on to claim."""

    queue.register(Work)(lambda work: ran.append(work.number))
    queue.events.subscribe(JobsDead, ended.append)
    queue.events.subscribe(JobsCompleted, ended.append)
    queue.events.subscribe(JobsRetried, lambda _: release.set())
    await queue.push(Odd())
    worker = Worker(queue, concurrency=1, abandoned=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: ended)
            await queue.push(Work(1))
            await eventually(lambda: len(ended) == 2)
            worker.stop()

    assert ran == [1]
    assert release.is_set()


def a_context() -> JobContext:
    return JobContext(
        job_id="a",
        job_name="Work",
        queue_name="q",
        attempt=1,
        deliveries=1,
        queued_ms=0,
        scheduled_ms=None,
        state=None,
        next_scheduled_ms=None,
        read_headers=dict,
        worker_id="w",
    )


@pytest.mark.slow
async def test_around_a_handler_in_a_process_it_runs_here_and_its_wait_takes_no_ones_process(
    store: Store, tmp_path: Path
) -> None:
    said: list[str] = []

    async def around(job: RunningJob, context: JobContext, call_next: CallNext) -> None:
        await anyio.sleep(0.01)  # another job may be given the process that was prepared for this one
        try:
            await call_next()
        except ValueError as error:
            said.append(str(error))
            raise
        said.append("done")

    async with handlers.queue_of(store.driver, store.queue_name) as queue:
        queue.add_middleware(Calls(around))
        await queue.push_many([Do("run", str(tmp_path)) for _ in range(4)])
        dead = await queue.push(Do("value"))
        await drain(queue, concurrency=3)

        assert len((tmp_path / "ran").read_text().splitlines()) == 4
        assert sorted(said) == [*["done"] * 4, "no luck"]
        assert (await info_of(queue, dead)).error == "ValueError: no luck"


# Hostile ones: they end their own job, and no other

RAISED = [
    KeyboardInterrupt(),
    GeneratorExit(),
    SystemExit(3),
    BaseException("odd"),
    asyncio.CancelledError(),
    StopIteration(1),
]


class OnlyOdd(Middleware):
    """Runs a hook around jobs of one name, and leaves the others alone."""

    def __init__(self, hook: Callable[[CallNext], Awaitable[Any]]) -> None:
        self.hook = hook

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return await (self.hook(call_next) if job.name == "Odd" else call_next())


def register_both(queue: JobQueue, in_thread: bool) -> list[int]:
    ran: list[int] = []

    async def odd(_: Odd) -> None: ...

    queue.register(Odd)((lambda _: None) if in_thread else odd)
    queue.register(Work)(lambda work: ran.append(work.number))
    return ran


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("waits", [False, True])
async def test_nothing_that_it_raises_ends_the_worker(
    queue: JobQueue, error: BaseException, in_thread: bool, waits: bool
) -> None:
    async def hook(call_next: CallNext) -> None:
        await call_next()
        if waits:
            await anyio.sleep(0.001)
        raise error

    queue.add_middleware(OnlyOdd(hook))
    ran = register_both(queue, in_thread)
    odd = await queue.push(Odd())
    await queue.push_many([Work(n) for n in range(3)])

    await drain(queue, concurrency=1)

    assert ran == [0, 1, 2]
    assert (await info_of(queue, odd)).reason == "failed"


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_nothing_that_a_handler_in_a_thread_raises_through_it_ends_the_worker(
    queue: JobQueue, error: BaseException
) -> None:
    ran: list[int] = []
    queue.add_middleware(Around("m", []))

    @queue.register(Odd)
    def odd(_: Odd) -> None:
        raise error

    queue.register(Work)(lambda work: ran.append(work.number))
    job = await queue.push(Odd())
    await queue.push_many([Work(n) for n in range(3)])

    await drain(queue, concurrency=1)

    assert ran == [0, 1, 2]
    assert (await info_of(queue, job)).reason == "failed"


def cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("hook", ["around", "on_claim"])
def test_one_that_cancels_all_tasks_ends_the_worker_by_an_error(hook: str, in_thread: bool) -> None:
    class Cancels(Middleware):
        async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
            if hook == "around" and job.name == "Odd":
                cancel_all()
            return await call_next()

        def on_claim(self, job: ClaimedJob) -> None:
            if hook == "on_claim":
                cancel_all()

    async def main() -> None:
        async with JobQueue("memory://", retry=no_retry(), middleware=[Cancels()]) as queue:
            register_both(queue, in_thread)
            await queue.push_many([Odd(), *(Work(n) for n in range(4))])
            await drain(queue, concurrency=2)

    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        with pytest.raises(RedisJobsError, match="one of the worker's tasks was cancelled"):
            asyncio.run(main())
        gc.collect()


@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
async def test_a_scope_that_it_leaves_open_costs_no_other_job(queue: JobQueue) -> None:
    kept: list[Any] = []

    async def leaky() -> AsyncIterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            yield scope

    async def hook(call_next: CallNext) -> None:
        kept.append(generator := leaky())
        kept.append(await anext(generator))
        await call_next()

    ran: list[int] = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        for scope in kept[1::2]:
            scope.cancel()
        await anyio.sleep(0.001)
        ran.append(work.number)

    queue.add_middleware(OnlyOdd(hook))
    queue.register(Odd)(lambda _: None)
    await queue.push_many([Odd(), *(Work(n) for n in range(3))])
    await drain(queue, concurrency=1)

    assert sorted(ran) == [0, 1, 2]  # one that it hits runs again


@contextmanager
def no_collection() -> Iterator[None]:
    logging.getLogger("redisjobs").addHandler(nothing := logging.NullHandler())
    logging.getLogger("redisjobs").propagate = False  # pytest keeps all records
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        logging.getLogger("redisjobs").propagate = True
        logging.getLogger("redisjobs").removeHandler(nothing)


class Kept(Exception):
    pass


@pytest.mark.parametrize("place", ["around", "handler", "thread"])
async def test_a_job_that_failed_leaves_no_reference_cycle(queue: JobQueue, place: str) -> None:
    gone: list[weakref.ref[BaseException]] = []

    def fail(here: str) -> None:
        if here == place:
            error = Kept()
            gone.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    async def hook(call_next: CallNext) -> None:
        await call_next()
        fail("around")

    async def odd(_: Odd) -> None:
        fail("handler")

    queue.add_middleware(OnlyOdd(hook))
    queue.register(Odd)((lambda _: fail("thread")) if place == "thread" else odd)
    queue.register(Work)(lambda _: None)
    await queue.push_many([Odd(), Work(), Work(), Work()])

    with no_collection():
        await drain(queue, concurrency=1)
        assert [ref() for ref in gone] == [None]


# Before a push


class OnPush(Middleware):
    """Has one hook before pushes, which a test gives."""

    def __init__(self, hook: Callable[[OutgoingJob], Any]) -> None:
        self.hook = hook

    def on_push(self, job: OutgoingJob) -> Any:
        return self.hook(job)


async def test_headers_that_it_adds_go_with_the_job_beside_those_that_were_given(queue: JobQueue) -> None:
    def add(job: OutgoingJob) -> None:
        job.headers["trace"] = f"{job.name} {job.priority}"
        job.headers.pop("secret", None)

    async def add_later(job: OutgoingJob) -> None:
        await anyio.lowlevel.checkpoint()
        job.headers["seen"] = job.headers["trace"].upper()

    queue.add_middleware(OnPush(add))
    queue.add_middleware(OnPush(add_later))
    queue.register(Work)(lambda _: None)
    one = await queue.push(Work(), priority="high", headers={"by": "me", "secret": "x"})
    (two,) = await queue.push_many([Work()])

    assert (await info_of(queue, one)).headers == {"by": "me", "trace": "Work high", "seen": "WORK HIGH"}
    assert (await info_of(queue, two)).headers == {"trace": "Work normal", "seen": "WORK NORMAL"}


async def test_a_job_whose_headers_all_go_has_none(queue: JobQueue) -> None:
    queue.add_middleware(OnPush(lambda job: job.headers.clear()))
    queue.register(Work)(lambda _: None)

    job = await queue.push(Work(), headers={"secret": "x"})

    assert (await info_of(queue, job)).headers is None


def test_a_sync_queue_calls_it_too() -> None:
    queue = sync.JobQueue("memory://", middleware=[OnPush(lambda job: job.headers.update(by="sync"))])
    queue.register(Work)(lambda _: None)
    with queue:
        info = queue.push(Work()).info()

    assert info is not None
    assert info.headers == {"by": "sync"}


async def test_it_sees_when_the_job_may_run_and_can_change_nothing_but_headers(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def look(job: OutgoingJob) -> None:
        seen.append((job.job_id, job.delay, job.at and job.at.year))
        job.headers = {}  # type: ignore[misc]

    queue.add_middleware(OnPush(look))
    queue.register(Work)(lambda _: None)
    far = (await info_of(queue, await queue.push(Work(), job_id="x", delay=3600))).due_at
    assert far is not None
    await queue.push_many([queue.prepare(Work(), job_id="now"), queue.prepare(Work(), job_id="late", at=far)])

    assert seen == [("x", 3600.0, None), ("now", None, None), ("late", None, far.year)]
    assert caplog.text.count("on_push of a middleware raised") == 3


@pytest.mark.parametrize("error", [ValueError("its own"), SystemExit(1)], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_it_raises_is_logged_and_the_push_goes_on(
    queue: JobQueue, error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job: OutgoingJob) -> None:
        job.headers["half"] = "way"
        raise error

    async def fail_later(job: OutgoingJob) -> None:
        await anyio.lowlevel.checkpoint()
        fail(job)

    queue.add_middleware(OnPush(fail_later if is_async else fail))
    queue.add_middleware(OnPush(lambda job: job.headers.update(next="one")))
    queue.register(Work)(lambda _: None)

    job = await queue.push(Work())

    assert job.added
    assert (await info_of(queue, job)).headers == {"half": "way", "next": "one"}
    assert "OnPush.on_push of a middleware raised" in caplog.text or "fail_later" in caplog.text


async def test_a_cancelled_error_of_its_own_is_logged_and_the_push_goes_on_but_a_cancelled_push_ends(
    queue: JobQueue, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend == "trio":
        pytest.skip("on trio no code can make such an error")

    async def wait_for_a_cancelled_task(job: OutgoingJob) -> None:
        task = asyncio.ensure_future(anyio.sleep_forever())
        task.cancel()
        await task

    queue.add_middleware(OnPush(wait_for_a_cancelled_task))
    queue.register(Work)(lambda _: None)
    assert (await queue.push(Work())).added
    assert "a middleware raised" in caplog.text

    queue.add_middleware(OnPush(lambda _: anyio.sleep_forever()))
    with anyio.move_on_after(0.02) as scope:
        await queue.push(Work())
    assert scope.cancelled_caught
    push = asyncio.create_task(queue.push(Work()))
    await anyio.sleep(0.02)
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    assert len(await queue.control.jobs("ready")) == 1


@pytest.mark.parametrize("bad", [5, None, b"bytes", "half \ud800", object()])
async def test_a_header_that_cannot_be_written_is_logged_and_left_out(
    queue: JobQueue, bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    queue.add_middleware(OnPush(lambda job: job.headers.update(bad=bad, good="one")))
    queue.register(Work)(lambda _: None)

    job = await queue.push(Work())

    assert (await info_of(queue, job)).headers == {"good": "one"}
    assert "a middleware's header is left out" in caplog.text


class Failing:
    """A driver whose pushes fail at first."""

    def __init__(self, driver: Any, *errors: Exception) -> None:
        self._driver = driver
        self._errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def push(self, jobs: Any, *, repeated: bool) -> Any:
        answers = await self._driver.push(jobs, repeated=repeated)
        if self._errors:
            raise self._errors.pop()
        return answers


async def test_a_push_that_is_repeated_is_the_same_push_with_the_same_headers(queue: JobQueue) -> None:
    called: list[str] = []

    def count(job: OutgoingJob) -> None:
        called.append(job.job_id)
        job.headers["number"] = str(len(called))

    queue.add_middleware(OnPush(count))
    queue.register(Work)(lambda _: None)
    prepared = queue.prepare(Work())
    queue.driver = Failing(queue.driver, *[Unavailable("the answer was lost")] * 50)
    queue.deadline = 0.05
    with pytest.raises(Unavailable) as failed:
        await queue.push_many([prepared])

    queue.deadline = 10
    queue.driver._errors.clear()
    (job,) = await queue.push_many(failed.value.jobs)
    (again,) = await queue.push_many([prepared])

    assert (job.added, again.added, len(called)) == (True, False, 1)
    assert sum((await queue.control.counts()).ready.values()) == 1
    assert (await info_of(queue, job)).headers == {"number": "1"}


async def test_a_job_that_another_task_pushes_meanwhile_keeps_the_headers_it_was_pushed_with(
    queue: JobQueue,
) -> None:
    called: list[str] = []
    waits, go_on = anyio.Event(), anyio.Event()

    async def first_waits(job: OutgoingJob) -> None:
        called.append(job.job_id)
        job.headers["number"] = str(len(called))
        if len(called) == 1:
            waits.set()
            await go_on.wait()

    queue.add_middleware(OnPush(first_waits))
    queue.register(Work)(lambda _: None)
    prepared = queue.prepare(Work())
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.push_many, [prepared])
            await waits.wait()
            (job,) = await queue.push_many([prepared])
            go_on.set()

    assert job.added
    assert prepared.fields[-1] == b'{"number":"2"}'
    assert (await info_of(queue, job)).headers == {"number": "2"}


async def test_a_push_that_was_refused_is_a_new_one_when_it_is_made_again(queue: JobQueue) -> None:
    called: list[str] = []

    def count(job: OutgoingJob) -> None:
        called.append(job.job_id)
        job.headers["number"] = str(len(called))

    queue.add_middleware(OnPush(count))
    queue.register(Work)(lambda _: None)
    driver = queue.driver

    class Full(Failing):
        async def push(self, jobs: Any, *, repeated: bool) -> Any:
            raise QueueFull("no room")

    queue.driver = Full(driver)
    with pytest.raises(QueueFull) as failed:
        await queue.push(Work())
    queue.driver = driver
    (job,) = await queue.push_many(failed.value.jobs)

    assert len(called) == 2
    assert (await info_of(queue, job)).headers == {"number": "2"}


async def test_it_is_told_when_a_push_has_ended_and_whether_that_added_the_job(queue: JobQueue) -> None:
    told: list[Any] = []

    def hear(job: OutgoingJob) -> None:
        job.when_pushed(lambda added, error: told.append((job.queue_name, job.job_id, added, error)))

    queue.add_middleware(OnPush(hear))
    queue.register(Work)(lambda _: None)

    await queue.push_many([queue.prepare(Work(), job_id=job_id) for job_id in ("a", "b", "a")])

    assert told == [(queue.name, "a", True, None), (queue.name, "b", True, None), (queue.name, "a", False, None)]


async def test_it_is_told_that_a_push_has_failed_or_was_given_up_and_why(queue: JobQueue) -> None:
    told: list[Any] = []
    queue.add_middleware(OnPush(lambda job: job.when_pushed(lambda *end: told.append(end))))
    queue.register(Work)(lambda _: None)
    driver = queue.driver

    class Hangs(Failing):
        async def push(self, jobs: Any, *, repeated: bool) -> Any:
            await anyio.sleep_forever()

    queue.driver = Failing(driver, error := QueueFull("no room"))
    with pytest.raises(QueueFull):
        await queue.push(Work())
    queue.driver = Hangs(driver)
    with anyio.move_on_after(0.01):
        await queue.push(Work())
    queue.driver = driver

    (failed, why), (given_up, cancelled) = told
    assert (failed, why, given_up) == (False, error, False)
    assert isinstance(cancelled, anyio.get_cancelled_exc_class())


async def test_it_is_told_of_a_push_that_was_given_up_while_a_hook_waits(queue: JobQueue) -> None:
    told: list[Any] = []

    async def waits(job: OutgoingJob) -> None:
        await anyio.sleep_forever()

    queue.add_middleware(OnPush(lambda job: job.when_pushed(lambda *end: told.append(end))))
    queue.add_middleware(OnPush(waits))
    queue.register(Work)(lambda _: None)

    with anyio.move_on_after(0.01):
        await queue.push(Work())

    assert len(told) == 1


async def test_what_is_raised_at_the_end_of_a_push_is_logged_and_the_push_was_made(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(added: bool, error: BaseException | None) -> None:
        raise ValueError("at the end")

    told: list[bool] = []
    queue.add_middleware(OnPush(lambda job: job.when_pushed(fail)))
    queue.add_middleware(OnPush(lambda job: job.when_pushed(lambda added, _: told.append(added))))
    queue.register(Work)(lambda _: None)

    job = await queue.push(Work())

    assert (job.added, told) == (True, [True])
    assert "at the end" in caplog.text


def test_a_sync_queue_tells_of_the_end_of_a_push_alike() -> None:
    told: list[Any] = []
    hook = OnPush(lambda job: job.when_pushed(lambda added, error: told.append((job.queue_name, added, error))))
    with sync.JobQueue("memory://", "q", middleware=[hook]) as queue:
        queue.register(Work)(lambda _: None)
        queue.push(Work(), job_id="a")
        queue.push(Work(), job_id="a")

        class Full:
            def push(self, jobs: Any, *, repeated: bool, until: float) -> Any:
                raise QueueFull("no room")

        store: Any = Full()
        queue._store, there = store, queue._store
        with pytest.raises(QueueFull):
            queue.push(Work())
        queue._store = there

    assert [(name, added, type(error)) for name, added, error in told] == [
        ("q", True, type(None)),
        ("q", False, type(None)),
        ("q", False, QueueFull),
    ]


# After a claim and a settlement


class Hears(Middleware):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_claim(self, job: ClaimedJob) -> None:
        self.told.append(job)

    async def on_settled(self, job: SettledJob, outcome: Outcome | None) -> None:
        await anyio.lowlevel.checkpoint()
        self.told.append((job, outcome))


async def test_a_claim_and_a_settlement_are_heard_in_this_order_job_by_job(queue: JobQueue) -> None:
    hears = Hears()
    queue.add_middleware(hears)

    @queue.register(Work)
    async def work(work: Work) -> None:
        if work.number:
            raise ValueError

    await queue.push(Work(0), job_id="good", headers={"by": "me"})
    await drain(queue)
    await queue.push(Work(1), job_id="bad")
    await drain(queue)

    claimed, (good, done), also_claimed, (bad, raised) = hears.told
    assert (claimed.job_id, claimed.name, claimed.attempt, claimed.deliveries) == ("good", "Work", 1, 1)
    assert (claimed.headers, also_claimed.job_id, also_claimed.headers) == ({"by": "me"}, "bad", {})
    assert (good.job_id, good.kind, type(done)) == ("good", JobsCompleted, Done)
    assert (bad.job_id, bad.kind, type(raised)) == ("bad", JobsDead, Raised)


async def test_each_worker_hears_of_its_own_jobs_alone_and_of_none_when_it_has_ended(queue: JobQueue) -> None:
    here, there = Hears(), Hears()
    queue.register(Work)(lambda _: None)
    one, two = Worker(queue, middleware=[here]), Worker(queue, middleware=[there])
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            tasks.start_soon(two.run)
            await eventually(lambda: one.health.ready and two.health.ready)
            await queue.push_many([Work(n) for n in range(20)])
            await eventually(lambda: len(here.told) + len(there.told) == 40)
            one.stop()
            two.stop()
    await queue.push(Work())
    await drain(queue)

    assert len(here.told) + len(there.told) == 40


async def test_an_entry_that_is_no_job_is_heard_of_as_well(queue: JobQueue, store: Store) -> None:
    hears = Hears()
    queue.add_middleware(hears)
    store.put({"odd": "entry"})

    await drain(queue)

    claimed, (settled, _) = hears.told
    assert (claimed.name, claimed.headers, settled.kind) == ("?", {}, JobsDead)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("hook", ["on_claim", "on_settled"])
async def test_what_it_raises_later_is_logged_and_the_others_are_called(
    queue: JobQueue, hook: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Middleware):
        async def on_claim(self, job: ClaimedJob) -> None:
            if hook == "on_claim":
                raise error

        def on_settled(self, job: SettledJob, outcome: Outcome | None) -> None:
            if hook == "on_settled":
                raise error

    hears = Hears()
    queue.add_middleware(Fails())
    queue.add_middleware(hears)
    queue.register(Work)(lambda _: None)
    await queue.push_many([Work(0), Work(1)])

    await drain(queue)

    assert len(hears.told) == 4
    assert caplog.text.count(f"{hook} of a middleware raised") == 2


async def test_a_slow_one_delays_no_job_and_what_it_misses_is_counted(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(middleware, "_MOST", 2)
    go_on, heard = anyio.Event(), list[str]()

    class Slow(Middleware):
        async def on_claim(self, job: ClaimedJob) -> None:
            await go_on.wait()
            heard.append(job.job_id)

    ran: list[int] = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        ran.append(work.number)
        if len(ran) == 10:
            go_on.set()

    queue.add_middleware(Slow())
    await queue.push_many([Work(n) for n in range(10)])

    await drain(queue, concurrency=1)

    assert sorted(ran) == list(range(10))
    assert len(heard) == 3
    assert "middleware hooks were not called for 7 jobs" in caplog.text


async def test_one_that_never_ends_does_not_keep_the_worker_from_ending(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(middleware, "_LAST", 0.05)
    cancelled: list[str] = []

    class Stuck(Middleware):
        async def on_settled(self, job: SettledJob, outcome: Outcome | None) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(job.job_id)

    queue.add_middleware(Stuck())
    queue.register(Work)(lambda _: None)
    await queue.push_many([Work(n) for n in range(3)])

    await drain(queue)

    assert len(cancelled) == 1
    assert "middleware hooks were not called for 2 jobs" in caplog.text
    assert (await queue.control.counts()).totals["completed"] == 3


async def test_what_is_released_as_a_worker_is_cancelled_is_heard_of(queue: JobQueue) -> None:
    hears = Hears()
    queue.add_middleware(hears)
    begun = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        begun.set()
        await anyio.sleep_forever()

    await queue.push(Work(), job_id="held")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            await begun.wait()
            await eventually(lambda: hears.told)
            tasks.cancel_scope.cancel()

    _, (settled, _) = hears.told
    assert (settled.job_id, settled.kind.__name__) == ("held", "JobsReleased")


# What is refused


class AsyncPush(Middleware):
    async def on_push(self, job: OutgoingJob) -> None: ...


class SyncAround(Middleware):
    def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return call_next()


def test_what_cannot_be_called_is_refused_as_it_is_added() -> None:
    queue, sync_queue = JobQueue("memory://"), sync.JobQueue("memory://")
    queue.add_middleware(AsyncPush())

    with pytest.raises(TypeError, match=r"AsyncPush.on_push is async, but a sync queue"):
        sync_queue.add_middleware(AsyncPush())
    with pytest.raises(TypeError, match=r"SyncAround.around must be `async def`"):
        queue.add_middleware(SyncAround())
    with pytest.raises(TypeError, match=r"SyncAround.around must be"):
        Worker(queue, middleware=[SyncAround()])
    with pytest.raises(TypeError, match="the class AsyncPush is not a middleware: give an instance"):
        queue.add_middleware(AsyncPush)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="5 is not a middleware"):
        JobQueue("memory://", middleware=[5])  # type: ignore[list-item]
    assert sync_queue.middleware == ()


class Later:
    def __await__(self) -> Iterator[None]:
        yield None


async def later() -> None: ...


@pytest.mark.parametrize("returned", [Later, later])
def test_a_plain_hook_that_returns_something_to_await_is_logged_by_a_sync_queue(
    returned: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(action="error"):
        with sync.JobQueue("memory://", middleware=[OnPush(lambda _: returned())]) as queue:
            queue.register(Work)(lambda _: None)
            assert queue.push(Work()).added
        gc.collect()

    assert "a sync queue can't" in caplog.text


async def test_a_worker_of_a_sync_queue_awaits_all_but_on_push(queue: JobQueue, store: Store) -> None:
    hears, said = Hears(), list[str]()
    with sync.JobQueue("memory://", middleware=[hears, Around("m", said)]) as sync_queue:
        sync_queue.register(Work)(lambda _: said.append("handler"))
        sync_queue.push(Work())
        with anyio.fail_after(20):
            await Worker(sync_queue).run(until_idle=True)

    assert said == ["m before", "handler", "m after"]
    assert len(hears.told) == 2
