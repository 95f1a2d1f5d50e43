"""A queue's worker, scheduler and connections as one service inside a program.

Write `async with queue.service():` in any program, `lifespan=queue.lifespan()` in an ASGI application, or
`await queue.service().run()` in a separate process.
"""

import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

import anyio
from anyio.abc import TaskGroup

from redisjobs.base.logger import Log
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Unavailable, single_cause
from redisjobs.events.kinds import SourceUnavailable, WorkerStarted
from redisjobs.events.middleware import Middleware
from redisjobs.model.job import Duration
from redisjobs.model.queries import Count
from redisjobs.worker.scheduler.scheduler import Scheduler
from redisjobs.worker.settings.health import Health
from redisjobs.worker.settings.shutdown import signals_to_stop
from redisjobs.worker.worker import Worker

logger = Log("redisjobs.service")

OnFailure = Literal["raise", "log"]
AppLifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""The lifespan of an ASGI application."""

_WITHOUT = (
    "an operator asked the worker of queue '%s' to stop, and it has ended; this program goes on without a worker, "
    "and fires no schedules of the queue"
)
_CONNECTING = 5.0  # seconds that an application's start waits for the server


class WorkerOptions(TypedDict, total=False):
    """The options of a service's worker; see `Worker`."""

    concurrency: int | None
    lease: Duration
    max_deliveries: int
    grace: Duration
    unknown_for: Duration
    max_jobs: int | None
    max_rss: int | None
    abandoned: int | None
    worker_id: str | None
    middleware: Iterable[Middleware]


class Service:
    """Runs the jobs of a queue, and fires its schedules, inside a program.

    As a context manager it starts when you enter it. When you leave it, it claims and fires nothing more, lets
    running jobs finish within the grace, and closes its connections. You can enter it again.

    Args:
        queue: The queue with its handlers, async or sync.
        worker: Whether to run its jobs. A worker also recovers jobs of dead workers.
        schedules: Whether to fire its schedules. Defaults to `worker`.
        on_failure: What to do if it fails with an error that waiting does not fix. `raise` ends the body of the
            context with that error; `log` goes on without the service. The error is logged in any case.
        options: Other options of `Worker`. Without a worker they have no effect, so one line serves both kinds of
            process: `service(worker=runs_jobs, concurrency=8)`.

    Attributes:
        error: The error with which it failed; None if it did not.

    Raises:
        ValueError: The value of an option is wrong.
        TypeError: An option does not exist.
    """

    def __init__(
        self,
        queue: Registry,
        *,
        worker: bool = True,
        schedules: bool | None = None,
        on_failure: OnFailure = "raise",
        **options: Unpack[WorkerOptions],
    ) -> None:
        if on_failure not in ("raise", "log"):
            raise ValueError(f"on_failure={on_failure!r}: give 'raise' or 'log'")
        self.error: BaseException | None = None
        self._queue = queue
        self._failed: Callable[[BaseException], object] = _raise if on_failure == "raise" else bool
        self._schedules = worker if schedules is None else schedules
        checked = Worker(queue, schedules=self._schedules, **options)  # check the options, even if none is to run
        self._worker = checked if worker else None
        self._scheduler = Scheduler(queue)  # used if there is no worker; a new one for each run
        self._tasks: TaskGroup | None = None
        self._is_running = False

    @property
    def health(self) -> Health:
        """The health of the service. Any thread may read it."""
        if self.error is not None:
            return Health(True, False, f"it failed: {self.error}")
        if self._is_running and self._worker is not None:
            return self._worker.health
        if self._is_running and self._scheduler.trouble:
            return Health(True, False, f"the schedules wait for the store: {self._scheduler.trouble}")
        return Health(True, self._is_running, "running" if self._is_running else "not running")

    def stop(self) -> None:
        """Claim and fire nothing from now on, and end when the running jobs have ended or the grace is over.

        If the service does not run, its next run ends at once.
        """
        if self._worker is not None:
            self._worker.stop()
        else:
            self._scheduler.stop()

    async def run(self, *, handle_signals: bool = True) -> None:
        """Run until stopped, in a separate process.

        Args:
            handle_signals: Let SIGTERM and SIGINT stop it, a second one at once. Main thread only.

        Raises:
            RuntimeError: It has neither a worker nor schedules, so there is nothing to run.
            DriverError: The server refuses. While it is only unavailable, the service waits.
        """
        if self._worker is None and not self._schedules:
            raise RuntimeError("this service has neither a worker nor schedules: there is nothing to run")
        try:
            await self._work(handle_signals)
        finally:
            with anyio.CancelScope(shield=True):
                await self._queue._disconnect()

    async def _work(self, handle_signals: bool) -> None:
        self._is_running, self.error = True, None
        try:
            if self._worker is not None:
                await self._worker.run(handle_signals=handle_signals)
            else:
                await self._schedule(handle_signals)
        finally:
            self._is_running = False

    async def _schedule(self, handle_signals: bool) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                if handle_signals:
                    tasks.start_soon(self._watch_signals)
                await self._scheduler.run()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            cause = single_cause(group)
            raise cause from cause.__cause__
        finally:
            self._scheduler = Scheduler(self._queue)

    async def _watch_signals(self) -> None:
        async for number in signals_to_stop():
            logger.info("%s: stopping", number.name)
            self.stop()

    # Inside a program

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("this service runs already")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            if self._worker is not None or self._schedules:
                await self._begin(self._tasks)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def _begin(self, tasks: TaskGroup) -> None:
        """Start, and wait until it runs, has failed, or waits for the server."""
        begun = anyio.Event()
        kinds = (WorkerStarted, SourceUnavailable)
        ends = [self._queue.events.subscribe(kind, lambda _: begun.set()) for kind in kinds]
        tasks.start_soon(self._serve, begun)
        try:
            await begun.wait()
        finally:
            for end in ends:
                end()

    async def _serve(self, begun: anyio.Event) -> None:
        if self._worker is None:
            begun.set()  # a scheduler has no event for its start
        try:
            await self._work(handle_signals=False)
            if self._worker is not None and self._worker.asked_by_operator:
                logger.warning(_WITHOUT, self._queue.name)
        except anyio.get_cancelled_exc_class():
            raise
        except Exception as error:
            self.error = error
            logger.error("the service of queue '%s' failed: %s", self._queue.name, error, exc_info=error)
            self._failed(error)
        finally:
            begun.set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, None
        assert tasks is not None
        if self._is_running:  # else the stop would end the next run
            self.stop()
        # After an error of the program, running jobs finish. When it is cancelled, they are handed back.
        given = (kind, error, trace) if isinstance(error, anyio.get_cancelled_exc_class()) else (None, None, None)
        try:
            await tasks.__aexit__(*given)
        except BaseExceptionGroup as group:
            cause = single_cause(group)
            raise cause from cause.__cause__
        finally:
            with anyio.CancelScope(shield=True):
                await self._queue._disconnect()


class Lifespan:
    """The `lifespan=` of an ASGI application, for example of FastAPI or Starlette.

    It connects the queue, enters `then`, and starts the service. At the end it does the reverse. So what `then`
    opens is there while jobs run.

    Once an application has started, servers ignore an error of its lifespan. So if the service fails later, the
    lifespan sends SIGTERM to its own process, and the server ends in order. With `on_failure="log"` the
    application goes on.

    Args:
        queue: The queue.
        then: Another lifespan, the application's own. What it yields is the application's state.
        on_failure: `raise`, or `log` to go on without the service.
        options: The options of `Service`.

    Attributes:
        service: The service of the application that runs now, or ran last.
    """

    def __init__(
        self, queue: Registry, *, then: AppLifespan | None = None, on_failure: OnFailure = "raise", **options: Any
    ) -> None:
        Service(queue, on_failure=on_failure, **options)  # a wrong option is an error here, not at the start
        share = {"max_jobs", "max_rss"} & {key for key, value in options.items() if value is not None}
        if share and options.get("worker", True):
            raise ValueError(
                f"{', '.join(sorted(share))}: these end a worker, and the application would go on without one; "
                "give them to `redisjobs worker`, which starts another"
            )
        if not (then is None or callable(then)):
            raise TypeError(f"then={then!r}: give a lifespan, which makes a context manager of the application")
        self.service: Service | None = None
        self._queue, self._then = queue, then
        self._raises, self._options = on_failure == "raise", options

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[Any]:
        """Run the lifespan of one application, from its start to its end."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._queue._disconnect)
            await self._connect()
            state = None if self._then is None else await stack.enter_async_context(self._then(app))
            self.service = service = Service(self._queue, on_failure="log", **self._options)
            await stack.enter_async_context(service)
            if self._raises and service.error is not None:
                raise service.error
            if self._raises:
                service._failed = _end_process
            yield state

    async def _connect(self) -> None:
        """Connect, so that a wrong password is an error at the start. An unavailable server may come back."""
        try:
            with anyio.fail_after(_CONNECTING):
                await self._queue.driver.read(Count())
        except (Unavailable, TimeoutError) as error:
            logger.warning("queue '%s': the store is unavailable (%s); going on", self._queue.name, error)
        except DriverError as error:
            if self._raises:
                raise
            logger.error("queue '%s': the store refuses (%s); going on without it", self._queue.name, error)


def _raise(error: BaseException) -> None:
    raise error


def _end_process(error: BaseException) -> None:
    logger.error("the service has failed, so this process ends: it sends itself SIGTERM")
    signal.raise_signal(signal.SIGTERM)
