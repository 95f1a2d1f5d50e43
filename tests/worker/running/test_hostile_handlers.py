"""Handlers, and other code of the user's, that would end a worker: they end their own job, and no other."""

import asyncio
import contextvars
import decimal
import functools
import gc
import logging
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
import uvloop
from each_setting import store as store
from pydantic import BaseModel, field_validator
from results import drain
from store import MemoryStore, RedisStore, Store, eventually
from tenacity import stop_after_attempt, wait_none

from redisjobs import (
    DriverError,
    JobContext,
    JobInfo,
    JobName,
    JobQueue,
    RedisJobsError,
    Retry,
    RetryPolicy,
    Snooze,
    State,
    Worker,
    no_retry,
)
from redisjobs.base.logger import Log
from redisjobs.events.middleware import CallNext, Middleware, RunningJob

TWICE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(2))


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@dataclass
class Odd:
    job_name: ClassVar[str] = "Odd"
    number: int = 0


def keep(queue: JobQueue) -> list[int]:
    """Register a handler that does no harm; the numbers that it was given."""
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    return ran


# What code of the user's raises


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that nothing can be set on."""

    number: int = 1


class Fixed(Exception):
    """An error that says itself from what it came."""

    __cause__ = __context__ = property(lambda _: None)


RAISED = [
    KeyboardInterrupt(),
    GeneratorExit(),
    SystemExit(3),
    BaseException("odd"),
    asyncio.CancelledError(),
    StopIteration(1),
    RecursionError(),
]


def in_an_async_handler(queue: JobQueue, error: BaseException) -> None:
    @queue.register(Odd, retry=TWICE)
    async def odd(_: Odd) -> None:
        raise error


def in_an_async_handler_that_waited(queue: JobQueue, error: BaseException) -> None:
    @queue.register(Odd, retry=TWICE, timeout=20)
    async def odd(_: Odd) -> None:
        await anyio.sleep(0.001)
        raise error


def in_a_sync_handler(queue: JobQueue, error: BaseException) -> None:
    @queue.register(Odd, retry=TWICE)
    def odd(_: Odd) -> None:
        raise error


def in_what_a_sync_handler_returned(queue: JobQueue, error: BaseException) -> None:
    async def odd() -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    queue.register(Odd, retry=TWICE)(lambda _: odd())


def in_a_post_init(queue: JobQueue, error: BaseException) -> None:
    @dataclass
    class Strict:
        number: int = 0

        def __post_init__(self) -> None:
            if self.number:
                raise error

    @queue.register(JobName("Odd", Strict), retry=TWICE)
    async def odd(_: Strict) -> None: ...


def in_a_validator(queue: JobQueue, error: BaseException) -> None:
    class Strict(BaseModel):
        number: int = 0

        @field_validator("number")
        @classmethod
        def refuse(cls, number: int) -> int:
            raise error

    @queue.register(JobName("Odd", Strict), retry=TWICE)
    async def odd(_: Strict) -> None: ...


PLACES = [
    in_an_async_handler,
    in_an_async_handler_that_waited,
    in_a_sync_handler,
    in_what_a_sync_handler_returned,
    in_a_post_init,
    in_a_validator,
]


@pytest.mark.anyio
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", PLACES)
async def test_nothing_a_handler_raises_ends_the_worker(
    queue: JobQueue, place: Callable[[JobQueue, BaseException], None], error: BaseException
) -> None:
    place(queue, error)
    ran = keep(queue)
    odd = await queue.push(Odd(1))
    await queue.push_many([Work(n) for n in range(5)])

    await drain(queue, concurrency=1)

    info = await queue.get(odd)
    assert ran == [0, 1, 2, 3, 4]
    assert info is not None
    assert info.state is State.DEAD
    assert info.reason in ("failed", "undecodable")  # what a validator raises as an Exception is no valid value
    # No coroutine can raise StopIteration.
    is_as_raised = place is in_a_sync_handler or not isinstance(error, Exception)
    if is_as_raised:
        assert (info.reason, info.attempt, info.error) == (
            "failed",
            2,
            f"{type(error).__name__}: {error}".rstrip(": "),
        )


class OddTraceback(Exception):
    def with_traceback(self, trace: Any) -> Any:
        raise RuntimeError("no traceback")


class OddClass(Exception):
    @property
    def __class__(self) -> Any:  # as lazy proxies have it
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, kind: Any) -> None: ...


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [OddTraceback, OddClass])
@pytest.mark.parametrize("place", PLACES)
async def test_nothing_that_a_raised_object_does_when_it_is_looked_at_ends_the_worker(
    queue: JobQueue, place: Callable[[JobQueue, BaseException], None], kind: type[Exception]
) -> None:
    place(queue, kind())
    ran = keep(queue)
    odd = await queue.push(Odd(1))
    await queue.push_many([Work(n) for n in range(5)])

    await drain(queue, concurrency=1)

    info = await queue.get(odd)
    assert ran == [0, 1, 2, 3, 4]
    assert info is not None
    assert info.state in (State.DEAD, State.DELAYED)  # what is raised in its place has the default policy


@pytest.mark.anyio
async def test_a_handler_may_return_what_cannot_be_looked_at(queue: JobQueue) -> None:
    @queue.register(Odd, retry=no_retry())
    def odd(_: Odd) -> Any:
        return OddClass()

    ran = keep(queue)
    await queue.push_many([Odd(), Work(1)])

    await drain(queue, concurrency=1)

    assert ran == [1]
    assert (await queue.control.counts()).totals["completed"] == 2


class OddRetry(Retry):
    error: BaseException

    def __init__(self) -> None: ...

    @property
    def delay(self) -> float:  # type: ignore[override]
        raise self.error


class OddSnooze(Snooze):
    error: BaseException
    until = None

    def __init__(self) -> None: ...

    @property
    def for_(self) -> float:  # type: ignore[override]
        raise self.error


def raising(error: BaseException) -> Any:
    def call(_: object) -> Any:
        raise error

    return call


@pytest.mark.anyio
@pytest.mark.parametrize("error", [*RAISED, Frozen(), Fixed()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("part", ["stop", "wait", "retry_if", OddRetry, OddSnooze])
async def test_nothing_that_decides_on_a_retry_ends_the_worker(
    queue: JobQueue, part: Any, error: BaseException
) -> None:
    policy = RetryPolicy(**{part: raising(error)}) if isinstance(part, str) else RetryPolicy()

    @queue.register(Odd, retry=policy)
    async def odd(_: Odd) -> None:
        if isinstance(part, str):
            raise ValueError
        steering = part()
        steering.error = error
        raise steering

    ran = keep(queue)
    odd_id = await queue.push(Odd())
    await queue.push(Work(1))

    await drain(queue, concurrency=1)

    info = await queue.get(odd_id)
    assert ran == [1]
    assert info is not None
    assert (info.state, info.attempt) == (State.DELAYED, 2)
    assert info.error.startswith(type(error).__name__)


@pytest.mark.anyio
async def test_a_cancellation_out_of_nowhere_is_a_failure_like_any_other(queue: JobQueue) -> None:
    @queue.register(Odd, retry=no_retry())
    async def odd(odd: Odd) -> None:
        kept: list[BaseException] = []
        with anyio.CancelScope() as scope:  # trio's can't be made directly
            scope.cancel()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as error:
                kept.append(error)
        raise kept[0]

    ran = keep(queue)
    odd_id = await queue.push(Odd())
    await queue.push(Work(1))
    await drain(queue, concurrency=1)

    info = await queue.get(odd_id)
    assert ran == [1]
    assert info is not None
    assert (info.state, info.error.partition(":")[0].lower()) == (
        State.DEAD,
        anyio.get_cancelled_exc_class().__name__.lower(),
    )


@pytest.mark.anyio
async def test_cancelling_the_run_while_handlers_raise_releases_them_with_a_refund(queue: JobQueue) -> None:
    started = anyio.Event()

    @queue.register(Odd, retry=no_retry())
    async def odd(_: Odd) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.lowlevel.checkpoint()

    job_id = await queue.push(Odd())
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            await started.wait()
            tasks.cancel_scope.cancel()

    info = await queue.get(job_id)
    assert info is not None
    assert (info.state, info.deliveries, info.attempt) == (State.READY, 0, 1)


# What handlers leave behind


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("end", ["return", "raise", "cancel"])
async def test_a_cancel_scope_that_an_async_generator_leaves_open_hits_no_other_job(
    queue: JobQueue, timeout: float | None, end: str
) -> None:
    kept: list[Any] = []

    async def leaky() -> AsyncIterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            yield scope

    @queue.register(Odd, retry=no_retry(), timeout=timeout)
    async def odd(_: Odd) -> None:
        generator = leaky()
        kept.append(generator)
        scope = await anext(generator)
        kept.append(scope)
        if end == "raise":
            raise ValueError("leaky")
        if end == "cancel":
            scope.cancel()
            await anyio.sleep_forever()

    ran = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        for scope in kept[1::2]:
            scope.cancel()
        await anyio.sleep(0.001)
        ran.append(work.number)

    ids = await queue.push_many([Odd(), Odd(), Odd()])
    await queue.push_many([Work(n) for n in range(4)])
    await drain(queue, concurrency=2)

    infos = [await queue.get(job_id) for job_id in ids]
    assert sorted(ran) == [0, 1, 2, 3]
    assert [info and info.state for info in infos] == [None if end == "return" else State.DEAD] * 3


variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [None, 20])
async def test_each_job_has_a_fresh_context(queue: JobQueue, timeout: float | None) -> None:
    seen: list[tuple[int, int]] = []

    def look() -> None:
        seen.append((variable.get(), decimal.getcontext().prec))
        variable.set(variable.get() + 1)
        decimal.getcontext().prec += 1

    @dataclass
    class Looking:
        def __post_init__(self) -> None:
            look()

    def judge(_: object) -> bool:
        look()
        return True

    @queue.register(Work, timeout=timeout)
    async def in_the_loop(_: Work) -> None:
        look()
        await anyio.lowlevel.checkpoint()
        assert variable.get() == 1  # its own

    queue.register(Odd, timeout=timeout)(lambda _: look())
    queue.register(JobName("Looking", Looking), timeout=timeout)(lambda _: None)

    @queue.job(retry=RetryPolicy(stop=judge))
    async def judged() -> None:
        raise ValueError

    before = decimal.getcontext().prec
    for _ in range(3):
        await queue.push_many([Work(), Odd()])
        await queue.push(Looking(), JobName("Looking", Looking))
        await judged.push()
    # To push some of them ran some of that here.
    variable.set(0)
    decimal.getcontext().prec = before
    seen.clear()
    await drain(queue, concurrency=1)

    assert set(seen) == {(0, before)}
    assert len(seen) == 12
    assert decimal.getcontext().prec == before


@pytest.mark.anyio
async def test_a_job_runs_in_the_context_the_worker_was_started_in_and_so_do_its_tasks(queue: JobQueue) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(variable.get())

    @queue.register(Work)
    async def work(_: Work) -> None:
        seen.append(variable.get())
        variable.set(8)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
        seen.append(await anyio.to_thread.run_sync(variable.get))

    await queue.push(Work())
    variable.set(7)
    await drain(queue)

    assert seen == [7, 8, 8]


@pytest.mark.anyio
async def test_an_error_that_a_plain_handler_raises_from_a_stop_iteration_stays_what_it_is(
    queue: JobQueue,
) -> None:
    @queue.register(Odd, retry=no_retry())
    def odd(_: Odd) -> None:
        try:
            next(iter(()))
        except StopIteration as error:
            raise RuntimeError("no orders") from error

    odd_id = await queue.push(Odd())
    await drain(queue)

    info = await queue.get(odd_id)
    assert info is not None
    assert (info.error_type, info.error) == ("RuntimeError", "RuntimeError: no orders")


class Around(Middleware):
    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return await call_next()


@pytest.mark.anyio
@pytest.mark.parametrize("middleware", [[], [Around()]], ids=["plain", "with middleware"])
async def test_what_a_plain_decorator_sets_the_coroutine_that_it_returns_sees(
    store: Store, middleware: list[Middleware]
) -> None:
    seen: list[int] = []

    def with_variable(function: Callable[[Work], Any]) -> Callable[[Work], Any]:
        @functools.wraps(function)
        def called(work: Work) -> Any:
            variable.set(work.number)
            return function(work)

        return called

    async with JobQueue(store.driver, store.queue_name, middleware=middleware) as queue:

        @queue.register(Work)
        @with_variable
        async def work(_: Work) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(variable.get())

        await queue.push(Work(7))
        variable.set(0)
        await drain(queue)

    assert seen == [7]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"timeout": 60}, {"stalled_after": 60}, {"keep_result": 60}, {"limit_key": str}], ids=str
)
async def test_jobs_that_are_done_leave_no_reference_cycles(
    queue: JobQueue, options: dict[str, Any], is_async: bool
) -> None:
    async def handler(_: Odd) -> None: ...

    queue.register(Odd, **options)(handler if is_async else lambda _: None)
    await queue.push_many([Odd(number) for number in range(1000)])
    gc.collect()
    gc.disable()
    try:
        await drain(queue, concurrency=10)
        left = gc.collect()
    finally:
        gc.enable()

    assert left < 2000  # of the worker itself, which has ended; jobs would leave 5 each


class Kept(Exception):
    pass


@pytest.mark.anyio
@pytest.mark.parametrize("place", [in_an_async_handler, in_a_sync_handler, in_a_post_init, "timed out", "policy"])
async def test_a_failed_job_leaves_no_reference_cycle(queue: JobQueue, place: Any, setting: str) -> None:
    gone: list[weakref.ref[BaseException]] = []

    def make() -> BaseException:
        error = Kept()
        gone.append(weakref.ref(error))
        return error

    async def handler(_: Any) -> None:
        if place == "timed out":
            try:
                await anyio.sleep_forever()
            finally:
                raise make()
        raise make()

    def sync_handler(_: Odd) -> None:
        raise make()

    @dataclass
    class Strict:
        number: int = 0

        def __post_init__(self) -> None:
            if self.number:
                raise make()

    def stop(_: object) -> bool:
        raise make()

    if place is in_a_post_init:
        queue.register(JobName("Odd", Strict), retry=no_retry())(handler)
    elif place is in_a_sync_handler:
        queue.register(Odd, retry=no_retry())(sync_handler)
    else:
        retry = RetryPolicy(stop=stop) if place == "policy" else no_retry()
        queue.register(Odd, retry=retry, timeout=0.05 if place == "timed out" else None)(handler)
    ran = keep(queue)
    await queue.push(Odd(1))
    await queue.push_many([Work(n) for n in range(3)])
    logging.getLogger("redisjobs").addHandler(nothing := logging.NullHandler())
    logging.getLogger("redisjobs").propagate = False  # pytest keeps all records
    gc.collect()
    gc.disable()
    try:
        await drain(queue, concurrency=1)
        assert ran == [0, 1, 2]
        assert gone
        assert [ref() for ref in gone] == [None] * len(gone)
    finally:
        gc.enable()
        logging.getLogger("redisjobs").propagate = True
        logging.getLogger("redisjobs").removeHandler(nothing)


# What a log goes to


class Raising(logging.Handler):
    def __init__(self, error: BaseException, places: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.error = error
        self.places = places

    def emit(self, record: logging.LogRecord) -> None:
        self.places.append(record.funcName)
        raise self.error


class RaisingFilter(Raising):
    def filter(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Raising, RaisingFilter])
@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit(1)], ids=lambda error: type(error).__name__)
async def test_a_logging_handler_that_raises_ends_nothing(
    queue: JobQueue, kind: type[Raising], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    @queue.register(Odd, retry=no_retry())
    async def odd(_: Odd) -> None:
        raise ValueError

    ran = keep(queue)
    places: list[str] = []
    log = logging.getLogger("redisjobs")
    log.setLevel(logging.DEBUG)
    log.addHandler(handler := kind(error, places))
    log.propagate = False
    try:
        await queue.push_many([Odd(), Work(1)])
        await drain(queue, concurrency=1)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
        log.propagate = True

    assert ran == [1]
    assert {"_started", "_settled", "_stopped"} <= set(places)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_what_a_log_raises_in_a_thread_is_shown_and_no_more(
    error: type[BaseException], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log("redisjobs.test")
    went_on = threading.Event()

    def speak() -> None:
        log.warning("said")
        went_on.set()

    log.logger.addHandler(handler := Raising(error(), []))
    try:
        thread = threading.Thread(target=speak)
        thread.start()
        thread.join()
    finally:
        log.logger.removeHandler(handler)
    assert went_on.is_set()
    assert error.__name__ in capsys.readouterr().err


def test_a_ctrl_c_while_the_main_thread_logs_is_not_the_logs() -> None:
    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            signal.raise_signal(signal.SIGINT)

    log = Log("redisjobs.test")
    log.logger.addHandler(handler := Interrupted())
    try:
        with pytest.raises(KeyboardInterrupt):
            log.warning("said")
    finally:
        log.logger.removeHandler(handler)


@pytest.mark.anyio
async def test_a_worker_beats_whatever_becomes_of_what_is_said_of_it(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat's thread says that it fails, and that it goes on; there is neither log nor thread for that."""
    beats: list[int] = []
    finish = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        await finish.wait()

    await queue.push(Work())
    log = logging.getLogger("redisjobs")
    log.addHandler(handler := Raising(OSError("disk full"), []))
    log.propagate = False
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if threading.current_thread().name == "redisjobs heartbeat":
            raise RuntimeError("can't start new thread")
        start(thread)

    worker = Worker(queue, lease=0.3)
    try:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                await eventually(lambda: worker._current and worker._current.sources[0].leases)
                monkeypatch.setattr(threading.Thread, "start", no_thread)
                assert worker._current is not None
                heart = worker._current.sources[0].beats.heartbeat
                sync = worker._current.sources[0].member.consumer.sync
                beat = sync.beat

                def failing(*arguments: Any) -> Any:
                    beats.append(1)
                    if len(beats) == 2:
                        raise ValueError("no beat")
                    return beat(*arguments)

                monkeypatch.setattr(sync, "beat", failing)
                await eventually(lambda: len(beats) > 5)
                finish.set()
                await eventually(lambda: worker._current and not worker._current.sources[0].leases)
                worker.stop()
    finally:
        log.removeHandler(handler)
        log.propagate = True
    assert heart._thread.is_alive() is False


# What handlers do to the event loop that they share with their worker


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine as a program does: what cancels all tasks would cancel those of pytest too."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        # A task that is cancelled before its first step leaves its coroutine. To be collected in code without
        # builtins, as pydantic evaluates, would be more than a warning.
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            gc.disable()
            try:
                with asyncio.Runner(loop_factory=request.param) as runner:
                    return runner.run(main)
            finally:
                gc.enable()
                gc.collect()

    return run


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest, queue_name: str) -> Store:
    if request.param == "memory":
        return MemoryStore(queue_name)
    store: RedisStore = request.getfixturevalue("redis_store")
    return store


def cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


async def by_itself() -> None:
    cancel_all()


async def by_itself_and_waits() -> None:
    cancel_all()
    await asyncio.sleep(10)


async def again_and_again() -> None:
    for _ in range(10):
        cancel_all()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)
    raise ValueError("that's it")


async def in_a_task() -> None:
    async def attack() -> None:
        cancel_all()

    task = asyncio.create_task(attack())
    with suppress(asyncio.CancelledError):
        await task
    raise ValueError("that's it")


async def from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await anyio.to_thread.run_sync(lambda: loop.call_soon_threadsafe(cancel_all))
    await asyncio.sleep(10)


async def while_it_is_cancelled() -> None:
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)
    finally:
        cancel_all()


async def one_after_another() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
        await asyncio.sleep(0)


async def from_a_plain_thread() -> None:
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(cancel_all)).start()
    await asyncio.sleep(10)


async def by_the_workers_own_task() -> None:
    main = next(task for task in asyncio.all_tasks() if "main" in repr(task.get_coro()))
    main.cancel()
    await asyncio.sleep(10)


async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(10)


async def exits() -> None:
    raise SystemExit(3)


async def exits_in_a_task() -> None:
    task = asyncio.create_task(exits())
    await asyncio.sleep(10)
    await task


async def interrupts_in_a_task_group() -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interrupt)


async def exits_in_a_callback() -> None:
    def leave() -> None:
        raise SystemExit(3)

    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(10)


ATTACKS = [
    *(by_itself, by_itself_and_waits, again_and_again, in_a_task, from_a_thread, while_it_is_cancelled),
    *(one_after_another, from_a_plain_thread, by_the_workers_own_task),
    *(stops_the_loop, exits_in_a_task, interrupts_in_a_task_group, exits_in_a_callback),
]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_handler_that_attacks_the_event_loop_may_end_its_worker_but_no_other_job_and_not_for_ever(
    kind: Store, run: Callable[..., Any], attack: Callable[[], Awaitable[None]]
) -> None:
    """That is a crash like any other: deliveries count, and the last one runs by itself."""
    ran: list[int] = []

    async def main(*, first: bool) -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            beside = asyncio.Event()

            @queue.register(Odd, retry=no_retry())
            async def odd(_: Odd, context: JobContext) -> None:
                if context.deliveries == 1:
                    await beside.wait()
                await attack()

            @queue.register(Work, retry=no_retry())
            async def work(work: Work) -> None:
                beside.set()
                await asyncio.sleep(0.02)
                ran.append(work.number)

            if first:
                await queue.push_many([Odd(), *(Work(n) for n in range(20))])
            async with asyncio.timeout(20):
                await Worker(queue, concurrency=8, lease=0.5, max_deliveries=2).run(until_idle=True)

    async def look() -> tuple[set[str], int]:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            counts = await queue.control.counts()
            dead = await queue.control.jobs(State.DEAD)
            return {job.name for job in dead}, sum(counts.ready.values()) + counts.running

    crashes = 0
    while crashes < 5:
        try:
            run(main(first=not crashes))
            break
        except (RedisJobsError, asyncio.CancelledError, SystemExit, KeyboardInterrupt, RuntimeError):
            crashes += 1

    assert 0 < crashes <= 2
    assert sorted(set(ran)) == list(range(20))
    dead, left = run(look())
    assert dead <= {"Odd"}
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("attack", [from_a_plain_thread, by_itself_and_waits, by_the_workers_own_task])
def test_a_job_that_ends_each_of_its_workers_is_told_by_its_last_delivery(
    kind: Store, run: Callable[..., Any], attack: Callable[[], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:

            @queue.register(Odd)
            async def odd(_: Odd) -> None:
                await attack()

            queue.register(Work)(lambda _: None)
            if await queue.get("killer") is None:
                await queue.push(Odd(), job_id="killer")
                await queue.push(Work(), job_id="waits")
            async with asyncio.timeout(20):
                await Worker(queue, concurrency=1, max_deliveries=2).run(until_idle=True)

    async def look() -> list[JobInfo | None]:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            return [await queue.get("killer"), await queue.get("waits")]

    for deliveries in (1, 2):
        with pytest.raises(RedisJobsError, match="one of the worker's tasks was cancelled"):
            run(main())
        killer, waits = run(look())
        assert killer is not None
        assert (killer.state, killer.deliveries, killer.attempt) == (State.READY, deliveries, 1)
        assert waits is None or (waits.state, waits.deliveries) == (State.READY, 0)
    run(main())
    killer, waits = run(look())
    assert killer is not None
    assert (killer.state, killer.reason) == (State.DEAD, "worker lost")
    assert waits is None


async def cancels_itself() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(10)


async def cancels_itself_and_returns() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (cancels_itself, "CancelledError"),
        (cancels_itself_and_returns, None),
    ],
)
@pytest.mark.parametrize("timeout", [None, 20])
def test_a_handler_that_cancels_its_own_task_ends_its_own_job_only(
    kind: Store,
    run: Callable[..., Any],
    attack: Callable[[], Awaitable[None]],
    error: str | None,
    timeout: float | None,
) -> None:
    ran: list[int] = []

    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:

            @queue.register(Odd, retry=no_retry(), timeout=timeout)
            async def odd(_: Odd) -> None:
                await attack()

            queue.register(Work)(lambda work: ran.append(work.number))
            await queue.push_many([Odd(), *(Work(n) for n in range(5))])
            await drain(queue, concurrency=1)
            errors = [info.error for info in await queue.control.jobs(State.DEAD)]
            assert len(errors) == (error is not None)
            assert all(said.startswith(error or "") for said in errors)

    run(main())
    assert ran == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["cancel", "timeout", "group"])
def test_who_cancels_the_workers_own_task_ends_it_at_once_and_gets_the_jobs_back(
    kind: Store, run: Callable[..., Any], how: str
) -> None:
    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            started = asyncio.Event()

            @queue.register(Work, retry=no_retry())
            async def work(_: Work) -> None:
                started.set()
                await asyncio.sleep(30)

            job_id = await queue.push(Work())
            worker = Worker(queue)
            before = time.monotonic()
            if how == "cancel":
                task = asyncio.create_task(worker.run())
                await started.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif how == "timeout":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await worker.run()
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(worker.run)
                    await started.wait()
                    tasks.cancel_scope.cancel()
            assert time.monotonic() - before < 5
            info = await queue.get(job_id)
            assert info is not None
            assert (info.state, info.deliveries, info.attempt) == (State.READY, 0, 1)

    run(main())


@pytest.mark.slow
def test_a_run_that_an_error_ends_refunds_nothing_that_ran(kind: Store, run: Callable[..., Any]) -> None:
    """A SystemExit in a callback that a handler left in the event loop ends the loop; no worker outlasts that."""
    started: list[str] = []

    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:

            @queue.register(Odd)
            async def odd(odd: Odd) -> None:
                def leave() -> None:
                    raise SystemExit(3)

                started.append(f"odd {odd.number}")
                asyncio.get_running_loop().call_soon(leave)
                await asyncio.sleep(10)

            await queue.push(Odd(), job_id="killer")
            await queue.push(Work(), job_id="waits")
            await Worker(queue, concurrency=1).run(until_idle=True)

    async def look() -> list[JobInfo]:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            queue.register(Work)(lambda _: None)
            infos = [await queue.get("killer"), await queue.get("waits")]
            return [info for info in infos if info]

    for deliveries in (1, 2):
        with pytest.raises(SystemExit):
            run(main())
        killer, waits = run(look())
        assert (killer.state, killer.deliveries, killer.attempt) == (State.READY, deliveries, 1)
        assert (waits.state, waits.deliveries) == (State.READY, 0)


def test_a_worker_one_of_whose_tasks_is_cancelled_ends_by_an_error(kind: Store, run: Callable[..., Any]) -> None:
    """It can't know by whom, and must not look as if it had ended in order."""

    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            started = asyncio.Event()

            @queue.register(Work, retry=no_retry())
            async def work(_: Work) -> None:
                started.set()
                await asyncio.sleep(30)

            job = await queue.push(Work())
            before = asyncio.all_tasks()
            worker = asyncio.create_task(Worker(queue, concurrency=2).run())
            await started.wait()
            for task in asyncio.all_tasks() - before - {worker}:
                task.cancel()
            with pytest.raises(RedisJobsError, match="one of the worker's tasks was cancelled"):
                await worker
            info = await job.info()
            assert info is not None
            assert (info.state, info.deliveries) == (State.READY, 1)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
def test_a_worker_runs_where_tasks_start_eagerly_and_leaves_them_so(kind: Store) -> None:
    ran: list[int] = []

    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(anyio.sleep, 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        async with JobQueue(kind.driver, kind.queue_name) as queue:

            @queue.register(Work)
            async def work(work: Work) -> None:
                await group()
                ran.append(work.number)

            await queue.push_many([Work(n) for n in range(5)])
            await drain(queue, concurrency=2)
            begun: list[int] = []

            async def eager() -> None:
                begun.append(1)

            task = asyncio.create_task(eager())
            assert begun
            await task

    asyncio.run(main())
    assert sorted(ran) == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
def test_a_timeout_that_an_async_generator_leaves_open_hits_no_other_job(
    kind: Store, run: Callable[..., Any]
) -> None:
    ran: list[int] = []

    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:
            kept: list[Any] = []

            async def leaky() -> AsyncIterator[asyncio.Timeout]:
                async with asyncio.timeout(0.05) as limit:
                    yield limit

            @queue.register(Odd, retry=no_retry())
            async def odd(_: Odd) -> None:
                generator = leaky()
                kept.extend((generator, await anext(generator)))

            @queue.register(Work, retry=no_retry())
            async def work(work: Work) -> None:
                await eventually(kept[1].expired)
                await asyncio.sleep(0.001)
                ran.append(work.number)

            await queue.push_many([Odd(), Work(1), Work(2)])
            await drain(queue, concurrency=1)
            assert (await queue.control.counts()).dead == 0

    run(main())
    assert sorted(ran) == [1, 2]


@pytest.mark.parametrize("inside", ["async", "sync"])
def test_a_handler_may_run_a_worker(kind: Store, run: Callable[..., Any], inside: str) -> None:
    ran: list[int] = []
    left: set[str] = set()

    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue:

            async def run_another() -> None:
                async with JobQueue("memory://", name="inner") as inner:
                    inner.register(Work)(lambda work: ran.append(work.number))
                    await inner.push(Work(1))
                    await Worker(inner).run(until_idle=True)

            if inside == "async":

                @queue.register(Odd, retry=no_retry(), timeout=10)
                async def odd(_: Odd) -> None:
                    before = asyncio.all_tasks()
                    await run_another()
                    more = asyncio.all_tasks() - before  # the worker around this has some that come and go
                    left.update(name for task in more if "watch" in (name := task.get_name()))

            else:
                queue.register(Odd, retry=no_retry(), timeout=10)(lambda _: asyncio.run(run_another()))
            queue.register(Work)(lambda work: ran.append(work.number))
            await queue.push_many([Odd(), Work(2)])
            await drain(queue, concurrency=1)
            assert await queue.control.jobs(State.DEAD) == []

    run(main())
    assert ran == [1, 2]
    assert not left


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_handler_may_cancel_the_worker_that_it_runs(kind: Store, run: Callable[..., Any], how: str) -> None:
    ended: list[str] = []

    async def main() -> None:
        async with JobQueue(kind.driver, kind.queue_name) as queue, JobQueue("memory://", name="inner") as inner:

            @queue.register(Odd, retry=no_retry())
            async def odd(_: Odd) -> None:
                worker = asyncio.create_task(Worker(inner).run())
                try:
                    if how == "timeout":
                        async with asyncio.timeout(0.1):
                            await Worker(inner).run()
                    else:
                        await asyncio.sleep(0.1)
                        worker.cancel()
                        await worker
                except (TimeoutError, asyncio.CancelledError) as error:
                    ended.append(type(error).__name__)
                finally:
                    worker.cancel()

            await queue.push(Odd())
            async with asyncio.timeout(10):
                await drain(queue, concurrency=1)

    run(main())
    assert ended == [{"timeout": "TimeoutError", "cancel": "CancelledError"}[how]]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ValueError("unexpected"), DriverError("refused")])
async def test_a_worker_that_dies_of_an_unexpected_error_counts_the_deliveries_of_what_ran(
    queue: JobQueue, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        started.set()
        await anyio.sleep_forever()

    ran, waits = await queue.push_many([Work(), Work()])
    worker = Worker(queue, concurrency=1)

    def fail(*_: object) -> Any:
        raise error

    async def spoil() -> None:
        await started.wait()
        assert worker._current is not None
        (source,) = worker._current.sources
        monkeypatch.setattr(source.stepper, "_step", fail)
        source.member.timer.wake()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spoil)
            with pytest.raises(type(error)):
                await worker.run()
    monkeypatch.undo()

    infos = [await queue.get(job_id) for job_id in (ran, waits)]
    assert [(info.state, info.deliveries) for info in infos if info] == [(State.READY, 1), (State.READY, 0)]


class Rude(asyncio.Future[None]):
    """Raises when it is cancelled."""

    def cancel(self, msg: object = None) -> bool:
        raise ValueError("no")


def test_a_handler_that_waits_for_what_cannot_be_cancelled_outlasts_its_timeout_and_hits_no_one_else(
    kind: Store, run: Callable[..., Any]
) -> None:
    async def main() -> dict[str, int]:
        rude = Rude()
        async with JobQueue(kind.driver, kind.queue_name, retry=no_retry()) as queue:

            @queue.register(Odd, timeout=0.05)
            async def odd(_: Odd) -> None:
                await rude

            @queue.register(Work, timeout=0.1)
            async def work(_: Work) -> None:
                await asyncio.sleep(10)

            await queue.push_many([Odd(), Work()])
            worker = Worker(queue)
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(10):
                while not await queue.control.jobs(State.DEAD):  # noqa: ASYNC110  (no event tells of it)
                    await asyncio.sleep(0.01)
                rude.set_result(None)
                while (await queue.control.counts()).running:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            worker.stop()
            await running
            return dict((await queue.control.counts()).totals)

    totals = run(main())
    assert (totals["completed"], totals["dead"]) == (1, 1)


def test_a_handler_that_outruns_its_timeout_and_cancels_its_own_task_does_not_hit_the_next_job(
    kind: Store, run: Callable[..., Any]
) -> None:
    async def main() -> dict[str, int]:
        async with JobQueue(kind.driver, kind.queue_name, retry=no_retry()) as queue:

            @queue.register(Odd, timeout=0.05)
            async def odd(_: Odd) -> None:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(10)
                task = asyncio.current_task()
                assert task is not None
                task.cancel()

            @queue.register(Work)
            async def work(_: Work) -> None:
                await asyncio.sleep(0.001)

            await queue.push_many([Odd(), Work(1), Work(2)])
            await Worker(queue, concurrency=1).run(until_idle=True)
            return dict((await queue.control.counts()).totals)

    totals = run(main())
    assert (totals["completed"], totals["dead"]) == (3, 0)
