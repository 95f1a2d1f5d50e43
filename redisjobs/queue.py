"""The async queue: register handlers, push jobs, wait for results."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Concatenate, Generic, Protocol, Self, TypeVar, Unpack, cast, overload

from redisjobs import drivers
from redisjobs.base.arguments import seconds
from redisjobs.client.checks import id_of
from redisjobs.client.functions import (
    Args,
    FunctionJob,
    Given,
    P,
    Returned,
    Returned_co,
    Unchecked,
    job_function,
)
from redisjobs.client.inspector import Inspector
from redisjobs.client.push import Chunk, Conflict, Push, push_chunks, raise_conflicts
from redisjobs.client.results import expected
from redisjobs.client.schedules import Schedules
from redisjobs.client.waiting import Waitings
from redisjobs.middleware import NO_CALLS, before_push
from redisjobs.model.context import JobContext
from redisjobs.model.info import JobInfo
from redisjobs.model.job import AppState, Duration, JobName, Named, PushedJob, TypedMapping
from redisjobs.model.limits import LimitKey
from redisjobs.model.options import HandlerOptions, PushOptions
from redisjobs.model.progress import Progress
from redisjobs.model.transitions import NewJob, Reply
from redisjobs.serving import Serving

R = TypeVar("R")


@dataclass(slots=True, unsafe_hash=True)
class JobHandle(PushedJob, Generic[R]):
    """A job that was pushed; see `PushedJob`. Type checkers know what its handler returns."""

    _queue: "JobQueue" = field(repr=False, compare=False)

    async def result(self, *, timeout: Duration | None = None) -> R:
        """Wait until the job has ended, and return what its handler returned; see `JobQueue.result`.

        If its handler is registered here, the result is of the handler's return type. If the job is another one,
        which held the unique key, it is of that type if it fits, else what its JSON says.
        """
        return cast("R", await self._queue.result(self, timeout=timeout))

    def watch(self) -> AsyncIterator[Progress]:
        """Go through the job's progress reports until it has ended; see `JobQueue.watch`."""
        return self._queue.watch(self.id)

    async def info(self) -> JobInfo | None:
        """Look the job up; see `JobQueue.get`."""
        return await self._queue.get(self.id)

    async def cancel(self) -> Reply:
        """Cancel the job; see `JobQueue.cancel` for the replies."""
        return await self._queue.cancel(self.id)


class JobQueue(Inspector, Serving):
    """A queue of jobs: register handlers on it, and push jobs to it.

    Use it as `async with queue:`, or call `aclose` at the end. It connects when it is first needed.

    Args:
        where: `memory://`, `redis://…`, `rediss://…`, `unix://…`, a redis-py client, or a driver.
        name: The queue's name. Queues of different names share no jobs.
        retry: The retry policy of handlers that name none. Defaults to `exponential_jitter()`.
        max_parameters: The most bytes of JSON that a job's parameters may have. Defaults to 512 KiB.
        deadline: Seconds for which a call is retried while the store is unavailable. Defaults to 10 s.
        middleware: The queue's middleware, the outermost first; see `add_middleware`.
        retention: What the queue keeps, and for how long. Its workers store it when they start; the last one
            counts. None leaves what is stored; a new queue keeps 100,000 dead letters for 30 days, and no others.
    """

    def move(self, where: Any) -> None:
        """Move the queue to another store, before its first call; `where` is as for the queue itself."""
        self.driver, self._waitings = drivers.connect(where, self.name), Waitings()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the queue can be used again after."""
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close all connections of this event loop, also those of a worker of this queue."""
        self._waitings.close()
        await super().disconnect()

    @property
    def schedules(self) -> Schedules[JobHandle[Any]]:
        """The schedules of this queue: list them, and make and change them at run time."""
        return Schedules(self, self._push)

    @property
    def job(self) -> "JobDecorator":
        """Make the decorated function a job: its signature is the parameters, and it can still be called.

        An argument annotated `JobContext` gets the context and is no parameter. If it comes first, type checkers
        know what is to be pushed; see `JobFunction`.

        Args:
            function: The function, or a partial of one, or a callable object.
            name: The job's name. Defaults to the function's.
            limit_key: Returns the key that a job counts under. It gets an object with the arguments as attributes.
            options: See `HandlerOptions`.

        Raises:
            RegistrationError: The name has a handler already; or the signature can't be a job's, or the result
                can't be kept.
            TypeError: An option does not exist.
            ValueError: A limit is wrong.
        """
        return cast("JobDecorator", self._job)

    def _job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        return job_function(self, JobFunction, function, options)

    @overload
    async def push(self, parameters: P, name: JobName[P], **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    @overload
    async def push(
        self, parameters: dict[str, Any], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    async def push(
        self, parameters: Named, name: None = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    async def push(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> JobHandle[Any]: ...

    async def push(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]:
        """Put a job on the queue. When this returns, the job is there.

        Args:
            parameters: What the handler gets: an instance of the declared type.
            name: For parameters whose type has no `job_name` of its own, or serves several names: a JobName, or
                the name of a job that has a handler here; with that, a dict of the fields will do for parameters.
            options: See `PushOptions`.

        Returns:
            The job: its `id`, and whether it was `added`. It was not if a job of this id is on the queue, or if
            another job holds the unique key. Then the id is that job's, and `replaced` says whether that job is
            now what was pushed.

        Raises:
            EncodeError: The parameters don't fit their declared type, or are too large; nothing was sent.
            UnknownJob: No handler here has that name; nothing was sent.
            UniqueConflict: Another job holds the unique key, and `on_conflict` is `"raise"`; nothing was written.
            QueueFull: The server is out of memory; nothing was written.
            WrongType: A key of the queue has the wrong type; nothing was written.
            Unavailable: No answer until the deadline. The job may or may not be there.
            DriverError: Any of the last four, or another error of Redis. Up to 50 s after the push began
                `push_many(error.jobs)` makes the same push again, and adds nothing twice; later it is refused.
        """
        conflicts: list[Conflict] = []
        (handle,) = await self._push([self.prepare(parameters, name, **options)], conflicts)
        raise_conflicts(conflicts)
        return handle

    @overload
    async def push_many(
        self, items: Iterable[P | NewJob], name: JobName[P], **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[dict[str, Any] | NewJob], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[Named | NewJob], name: None = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[Any], name: str, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    async def push_many(
        self, items: Iterable[Any], name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]:
        """Put many jobs on the queue, in order, with one script call for each 500.

        The items are parameters, as for `push`, or what `prepare` made of them. They are taken as needed, so a
        generator is fine. A prepared job has its own options. Up to 50 s after its push it can be pushed again:
        that is the same push.

        Raises:
            EncodeError: An item is wrong. The chunks before its own were pushed, its own was not.
            UniqueConflict: Other jobs hold unique keys, and `on_conflict` is `"raise"`. The rest was pushed.
            DriverError: As for `push`. The chunks before were pushed. Its `jobs` may not be there: those of this
                chunk, and of the next, if that was encoded. What follows was not taken from `items` yet.
        """
        conflicts: list[Conflict] = []

        async def push(chunk: Chunk) -> list[JobHandle[Any]]:
            return await self._push(chunk.jobs, conflicts, held=chunk.held)

        handles = await push_chunks(push, self._prepare_many(items, name, options))
        raise_conflicts(conflicts)
        return handles

    @overload
    async def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: type[R]) -> R: ...

    @overload
    async def result(
        self, job: str | PushedJob, *, timeout: Duration | None = None, returns: None = None
    ) -> Any: ...

    async def result(self, job: str | PushedJob, *, timeout: Duration | None = None, returns: Any = None) -> Any:
        """Wait until a job has ended, and return what its handler returned.

        A result is kept if the push or the handler's registration says so: `keep_result=`. Nothing is polled: all
        waits of this process share one connection, and Redis notifies it.

        Args:
            job: Its id, or its handle.
            timeout: How long to wait; 0 to look once. Defaults to no limit. The job goes on in any case.
            returns: The type of the result, which is checked. With a handle it defaults to the return type of the
                handler, if that is registered here; else to plain JSON: dicts, lists, strings, numbers.

        Raises:
            TimeoutError: It has not ended in that time.
            JobFailed: It is a dead letter; the error has type, message and traceback.
            JobCancelled: It was cancelled.
            ResultRefused: It is done, but what its handler returned could not be kept.
            ResultExpired: It is done, and its result is no longer kept.
            ResultNotKept: No result is kept, or the job is unknown; at once if that is known, else at its end.
            DecodeError: The result does not fit the type.
            DriverError: Redis refuses to answer. While it is unavailable this waits, except with `timeout=0`.
        """
        job_id, wanted = id_of(job), expected(self.definitions, job, returns)
        limit = None if timeout is None else seconds(timeout, "timeout")
        return await self._waitings.result(self.driver, self.name, job_id, wanted, limit)

    def watch(self, job: str | PushedJob) -> AsyncIterator[Progress]:
        """Go through a job's progress reports, with `async for`, until the job has ended.

        It begins with the last report. When reports come faster than you read them, you get only the newest.
        `result` and `get` say how the job has ended. An unknown job counts as ended. While Redis is unavailable
        this waits; a `DriverError` means that it refuses.
        """
        return self._waitings.progress(self.driver, self.name, id_of(job))

    @overload
    async def run(
        self, parameters: P, name: JobName[P], *, timeout: Duration | None = None, **options: Unpack[PushOptions]
    ) -> Any: ...

    @overload
    async def run(
        self,
        parameters: dict[str, Any],
        name: JobName[TypedMapping],
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    async def run(
        self,
        parameters: Named,
        name: None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any: ...

    @overload
    async def run(
        self, parameters: Any, name: str, *, timeout: Duration | None = None, **options: Unpack[PushOptions]
    ) -> Any: ...

    async def run(
        self,
        parameters: Any,
        name: JobName[Any] | str | None = None,
        *,
        timeout: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Any:
        """Push a job, wait until it has ended, and return what its handler returned; see `push` and `result`.

        The `timeout` limits the wait after the push. `keep_result` defaults to that of the registration, else to
        an hour.

        Raises:
            NoResult: As `result`, as do TimeoutError, DecodeError and DriverError.
            EncodeError: As `push`, as does ValueError; that also for `keep_result=0`.
            RegistrationError: The return type of its handler can't be read; nothing was pushed.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        job, conflicts = self._prepare_awaited(parameters, name, options), list[Conflict]()
        (handle,) = await self._push([job], conflicts)
        raise_conflicts(conflicts)
        return await self.result(handle, timeout=limit)

    async def _push(
        self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, held: bool = False
    ) -> list[JobHandle[Any]]:
        ends = await before_push(self.on_push, jobs, self.name) if self.on_push else NO_CALLS
        try:
            push = Push(jobs, self.deadline, held=held)
            answers = await self._call(lambda: self.driver.push(jobs, repeated=push.repeated), push)
            handles = push.handles(answers, self.handle)
            self._tell_pushed(handles)
            conflicts += push.conflicts
        except BaseException as error:
            self._tell_failed(error, ends)
            raise
        if ends is not NO_CALLS:
            ends.tell([bool(handle.added) for handle in handles])
        return handles

    def handle(
        self, job_id: str, name: str, added: bool | None, replaced: bool = False, is_other: bool = False
    ) -> JobHandle[Any]:
        """Return a handle of a job of this queue; see `PushedJob`."""
        return JobHandle(job_id, name, added, replaced, self, is_other=is_other)


class JobDecorator(Protocol):
    """Makes a function a job."""

    @overload
    def __call__(self, function: Unchecked[Returned, AppState], /) -> "JobFunction[..., ..., Returned]": ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext[AppState], Given], Returned], /
    ) -> "JobFunction[Concatenate[JobContext[AppState], Given], Given, Returned]": ...

    @overload
    def __call__(self, function: Callable[Args, Returned], /) -> "JobFunction[Args, Args, Returned]": ...

    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        limit_key: LimitKey | None = None,
        **options: Unpack[HandlerOptions],
    ) -> "JobDecorator": ...


class JobFunction(FunctionJob[Args, Given, Returned_co]):
    """A function that is a job of an async queue as well; see `FunctionJob`."""

    _queue: JobQueue

    @overload
    async def push(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> JobHandle[R]: ...

    @overload
    async def push(
        self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs
    ) -> JobHandle[R]: ...

    async def push(self, *args: Given.args, **kwargs: Given.kwargs) -> JobHandle[Any]:
        """Put a call of the function on the queue; see `JobQueue.push`."""
        parameters = self._signature.arguments(*args, **kwargs)
        return await self._queue.push(parameters, self.name, **self._options)

    @overload
    async def run(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> R: ...

    @overload
    async def run(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> R: ...

    async def run(self, *args: Given.args, **kwargs: Given.kwargs) -> Any:
        """Push a call of the function, and wait for what it returns, by `asyncio.timeout` for a limited time."""
        parameters = self._signature.arguments(*args, **kwargs)
        return await self._queue.run(parameters, self.name, **self._options)
