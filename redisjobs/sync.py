"""The sync queue, for code without an event loop. Its methods are those of the async queue, without `await`.

One sync queue serves both sides: a web application pushes jobs to it, and `redisjobs worker` runs its handlers.
"""

import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Protocol, Self, TypeVar, Unpack, cast, overload

from redisjobs import drivers
from redisjobs.base.arguments import seconds
from redisjobs.client import jobs
from redisjobs.client.calls import SyncCalls
from redisjobs.client.checks import id_of
from redisjobs.client.functions import Args, FunctionJob, Given, P, Returned, Returned_co, Unchecked, job_function
from redisjobs.client.push import Conflict, raise_conflicts
from redisjobs.client.pushing import SyncPushing
from redisjobs.client.registry import Registry
from redisjobs.client.results import expected
from redisjobs.client.schedules import SyncSchedules
from redisjobs.client.waiting import Waitings
from redisjobs.client.waiting_thread import WaitingThread
from redisjobs.model import context
from redisjobs.model.chunks import Chunk, checked_after
from redisjobs.model.info import JobInfo
from redisjobs.model.job import AppState, Duration, JobName, Named, PushedJob, TypedMapping
from redisjobs.model.limits import LimitKey
from redisjobs.model.options import HandlerOptions, PushOptions
from redisjobs.model.progress import Progress
from redisjobs.model.sync_verbs import JobContext as JobContext
from redisjobs.model.transitions import NewJob, Reply

if TYPE_CHECKING:
    from redisjobs.control.sync_control import SyncControl
    from redisjobs.worker.service import AppLifespan, Lifespan, OnFailure, Service, WorkerOptions

R = TypeVar("R")


@dataclass(slots=True, unsafe_hash=True)
class JobHandle(PushedJob, Generic[R]):
    """A job that was pushed; see `PushedJob`. Type checkers know what its handler returns."""

    _queue: "JobQueue" = field(repr=False, compare=False)

    def result(self, *, timeout: Duration | None = None) -> R:
        """Wait until the job has ended, and return its result; see `redisjobs.JobQueue.result`."""
        return cast("R", self._queue.result(self, timeout=timeout))

    def watch(self) -> Iterator[Progress]:
        """Iterate over the job's progress reports until it has ended; see `redisjobs.JobQueue.watch`."""
        return self._queue.watch(self.id)

    def stream(self, *, after: str | None = None) -> Iterator[Chunk]:
        """Iterate over what the job emits until it has ended; see `redisjobs.JobQueue.stream`."""
        return self._queue.stream(self.id, after=after)

    def info(self) -> JobInfo | None:
        """Look the job up; see `redisjobs.JobQueue.get`."""
        return self._queue.get(self.id)

    def cancel(self) -> Reply:
        """Cancel the job; see `redisjobs.JobQueue.cancel` for the replies."""
        return self._queue.cancel(self.id)

    def signal(self, name: str, value: Any = None) -> Reply:
        """Send the job a signal; see `redisjobs.JobQueue.signal`."""
        return self._queue.signal(self.id, name, value)


class JobQueue(Registry):
    """A queue of jobs for sync code, with the arguments and methods of `redisjobs.JobQueue`.

    Threads may share it. Use it in `with queue:`, or call `close` at the end. Its calls block their thread: in an
    event loop, await a `redisjobs.JobQueue`, or use `asyncio.to_thread`. A call there logs a warning, once.
    """

    _awaits_push = False
    _thread: WaitingThread

    def _connect(self, where: Any) -> None:
        if "_thread" in vars(self):
            self._thread.close(self._stop_waiting)
        self.driver, self._store = drivers.connect_sync(where, self.name)
        self._waitings, self._thread = Waitings(), WaitingThread()
        self._calls = SyncCalls(self)
        self._pushing = SyncPushing[JobHandle[Any]](self, self._calls, self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. You can use the queue again afterwards."""
        self._thread.close(self._stop_waiting)
        self._store.close()

    async def _stop_waiting(self) -> None:
        self._waitings.close()
        await self.driver.aclose()

    async def _disconnect(self) -> None:
        """Close all connections of this event loop, including those of this queue's worker."""
        await super()._disconnect()
        self.close()

    def service(
        self,
        *,
        worker: bool = True,
        schedules: bool | None = None,
        on_failure: "OnFailure" = "raise",
        **options: "Unpack[WorkerOptions]",
    ) -> "Service":
        """Return a service: a worker and a scheduler of this queue inside a program; see `Service`."""
        from redisjobs.worker.service import Service

        return Service(self, worker=worker, schedules=schedules, on_failure=on_failure, **options)

    def lifespan(
        self,
        *,
        worker: bool = True,
        schedules: bool | None = None,
        then: "AppLifespan | None" = None,
        on_failure: "OnFailure" = "raise",
        **options: "Unpack[WorkerOptions]",
    ) -> "Lifespan":
        """Return a lifespan for an ASGI application's `lifespan=`; see `Lifespan`.

        With `worker=False` the application only pushes: it connects at the start, and closes at the end. Options
        of a worker then have no effect.
        """
        from redisjobs.worker.service import Lifespan

        return Lifespan(self, then=then, on_failure=on_failure, worker=worker, schedules=schedules, **options)

    @property
    def schedules(self) -> SyncSchedules[JobHandle[Any]]:
        """The schedules of this queue: list them, and make and change them at run time."""
        return SyncSchedules(self, self._calls, self._pushing)

    @functools.cached_property
    def control(self) -> "SyncControl":
        """The operator's calls on this queue; see `redisjobs.JobQueue.control`."""
        from redisjobs.control.sync_control import SyncControl

        return SyncControl(self, self._calls)

    @property
    def job(self) -> "JobDecorator":
        """Make the decorated function a job; see `redisjobs.JobQueue.job`."""
        return cast("JobDecorator", self._job)

    def _job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        return job_function(self, JobFunction, function, options)

    @overload
    def push(
        self, parameters: P, name: JobName[P], within: Any = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    def push(
        self,
        parameters: dict[str, Any],
        name: JobName[TypedMapping],
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> JobHandle[Any]: ...

    @overload
    def push(
        self, parameters: Named, name: None = None, within: Any = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    def push(
        self, parameters: Any, name: str, within: Any = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    def push(
        self,
        parameters: Any,
        name: JobName[Any] | str | None = None,
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> JobHandle[Any]:
        """Put a job on the queue; see `redisjobs.JobQueue.push` for what it returns and raises."""
        conflicts: list[Conflict] = []
        job = self.prepare(parameters, name, **options)
        if within is not None:
            return self._pushing.push_within(within, [job])[0]
        (handle,) = self._pushing.push([job], conflicts)
        raise_conflicts(conflicts)
        return handle

    @overload
    def push_many(
        self, items: Iterable[P | NewJob], name: JobName[P], within: Any = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    def push_many(
        self,
        items: Iterable[dict[str, Any] | NewJob],
        name: JobName[TypedMapping],
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> list[JobHandle[Any]]: ...

    @overload
    def push_many(
        self,
        items: Iterable[Named | NewJob],
        name: None = None,
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> list[JobHandle[Any]]: ...

    @overload
    def push_many(
        self, items: Iterable[Any], name: str, within: Any = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    def push_many(
        self,
        items: Iterable[Any],
        name: JobName[Any] | str | None = None,
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> list[JobHandle[Any]]:
        """Put many jobs on the queue; see `redisjobs.JobQueue.push_many`."""
        if within is not None:
            prepared = self._prepare_many(items, name, options)
            return self._pushing.push_within(within, [job for chunk in prepared for job in chunk.jobs])
        handles, conflicts = list[JobHandle[Any]](), list[Conflict]()
        for chunk in self._prepare_many(items, name, options):
            handles += self._pushing.push(chunk.jobs, conflicts, prepared=chunk.prepared)
        raise_conflicts(conflicts)
        return handles

    @overload
    def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: type[R]) -> R: ...

    @overload
    def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: None = None) -> Any: ...

    def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: Any = None) -> Any:
        """Wait until a job has ended, and return what its handler returned; see `redisjobs.JobQueue.result`.

        All waiting threads share one connection. The first wait starts a background thread that listens on it,
        and `close` ends this thread. Waits that are still open start another one.
        """
        job_id, wanted = id_of(job), expected(self.definitions, job, returns)
        limit = None if timeout is None else seconds(timeout, "timeout")
        self._calls.check_loop()
        since = time.monotonic()
        return self._thread.call(
            lambda: self._waitings.result(self.driver, self.name, job_id, wanted, limit, since)
        )

    def watch(self, job: str | PushedJob) -> Iterator[Progress]:
        """Iterate over a job's progress reports until it has ended; see `redisjobs.JobQueue.watch`."""
        job_id = id_of(job)
        self._calls.check_loop()
        return self._thread.each(functools.partial(self._waitings.progress, self.driver, self.name, job_id))

    def stream(self, job: str | PushedJob, *, after: str | None = None) -> Iterator[Chunk]:
        """Iterate over what a job emits until it has ended; see `redisjobs.JobQueue.stream`."""
        job_id, after = id_of(job), checked_after(after)
        self._calls.check_loop()
        return self._stream(job_id, after)

    def _stream(self, job_id: str, after: str) -> Iterator[Chunk]:
        last = after  # kept here: if `close` ends the waiting thread, another one goes on from it

        def pages() -> AsyncGenerator[Sequence[Chunk], None]:
            return self._waitings.chunks(self.driver, self.name, job_id, last)

        for page in self._thread.each(pages):
            for chunk in page:
                last = chunk.id
                yield chunk

    def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look a job up; see `redisjobs.JobQueue.get`."""
        return self._calls.do(jobs.get(job))

    def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job; see `redisjobs.JobQueue.cancel` for the replies."""
        return self._calls.do(jobs.cancel(job))

    def signal(self, job: str | PushedJob, name: str, value: Any = None) -> Reply:
        """Send a signal to a job; see `redisjobs.JobQueue.signal`."""
        return self._calls.do(jobs.signal(job, name, value, self.max_parameters))

    @overload
    def run(
        self, parameters: P, name: JobName[P], *, timeout: Duration | None = None, **options: Unpack[PushOptions]
    ) -> Any: ...

    @overload
    def run(
        self,
        parameters: dict[str, Any],
        name: JobName[TypedMapping],
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    def run(
        self,
        parameters: Named,
        name: None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    def run(
        self, parameters: Any, name: str, *, timeout: Duration | None = None, **options: Unpack[PushOptions]
    ) -> Any: ...

    def run(
        self,
        parameters: Any,
        name: JobName[Any] | str | None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any:
        """Push a job, wait until it has ended, and return its result; see `redisjobs.JobQueue.run`."""
        limit = None if timeout is None else seconds(timeout, "timeout")
        job, conflicts = self._prepare_awaited(parameters, name, options), list[Conflict]()
        (handle,) = self._pushing.push([job], conflicts)
        raise_conflicts(conflicts)
        return self.result(handle, timeout=limit)

    def _handle(
        self, job_id: str, name: str, added: bool | None, replaced: bool = False, is_other: bool = False
    ) -> JobHandle[Any]:
        """Return the handle of a job on this queue; see `PushedJob`."""
        return JobHandle(job_id, name, added, replaced, self, is_other=is_other)


class JobDecorator(Protocol):
    """The decorator that `JobQueue.job` returns."""

    @overload
    def __call__(self, function: Unchecked[Returned, AppState], /) -> "JobFunction[..., ..., Returned]": ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[context.JobContext[AppState], Given], Returned], /
    ) -> "JobFunction[Concatenate[context.JobContext[AppState], Given], Given, Returned]": ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext[AppState], Given], Returned], /
    ) -> "JobFunction[Concatenate[JobContext[AppState], Given], Given, Returned]": ...

    @overload
    def __call__(self, function: Callable[Args, Returned], /) -> "JobFunction[Args, Args, Returned]": ...

    @overload
    def __call__(
        self, /, *, name: str | None = None, limit_key: LimitKey | None = None, **options: Unpack[HandlerOptions]
    ) -> "JobDecorator": ...


class JobFunction(FunctionJob[Args, Given, Returned_co]):
    """A function that is also a job of a sync queue; see `FunctionJob`."""

    _queue: JobQueue

    @overload
    def push(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> JobHandle[R]: ...

    @overload
    def push(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> JobHandle[R]: ...

    def push(self, *args: Given.args, **kwargs: Given.kwargs) -> JobHandle[Any]:
        """Put a call of the function on the queue; see `JobQueue.push`."""
        parameters = self._signature.arguments(*args, **kwargs)
        return self._queue.push(parameters, self.name, within=self._within, **self._options)

    @overload
    def run(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> R: ...

    @overload
    def run(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> R: ...

    def run(self, *args: Given.args, **kwargs: Given.kwargs) -> Any:
        """Push a call of the function, and wait for its result; see `JobQueue.run`.

        All arguments go to the function. To limit the wait, push the call and wait for its result:
        `price.options(keep_result=60).push(5).result(timeout=10)`.
        """
        self._check_no_transaction()
        parameters = self._signature.arguments(*args, **kwargs)
        return self._queue.run(parameters, self.name, **self._options)
