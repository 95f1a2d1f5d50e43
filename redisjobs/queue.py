"""The async queue: register handlers, push jobs, wait for results."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Protocol, Self, TypeVar, Unpack, cast, overload

from redisjobs import drivers
from redisjobs.base.arguments import seconds
from redisjobs.client import jobs
from redisjobs.client.calls import Calls
from redisjobs.client.checks import id_of
from redisjobs.client.functions import Args, FunctionJob, Given, P, Returned, Returned_co, Unchecked, job_function
from redisjobs.client.push import Conflict, PushChunk, push_chunks, raise_conflicts
from redisjobs.client.pushing import Pushing
from redisjobs.client.registry import Registry
from redisjobs.client.results import expected
from redisjobs.client.schedules import Schedules
from redisjobs.client.waiting import Waitings
from redisjobs.model import chunks, sync_verbs
from redisjobs.model.context import JobContext
from redisjobs.model.info import JobInfo
from redisjobs.model.job import AppState, Duration, JobName, Named, PushedJob, TypedMapping
from redisjobs.model.limits import LimitKey
from redisjobs.model.options import HandlerOptions, PushOptions
from redisjobs.model.progress import Progress
from redisjobs.model.transitions import NewJob, Reply

if TYPE_CHECKING:
    from redisjobs.control.control import Control
    from redisjobs.worker.service import AppLifespan, Lifespan, OnFailure, Service, WorkerOptions

R = TypeVar("R")


@dataclass(slots=True, unsafe_hash=True)
class JobHandle(PushedJob, Generic[R]):
    """A job that was pushed; see `PushedJob`. Type checkers know what its handler returns."""

    _queue: "JobQueue" = field(repr=False, compare=False)

    async def result(self, *, timeout: Duration | None = None) -> R:
        """Wait until the job has ended, and return what its handler returned; see `JobQueue.result`.

        If its handler is registered here, the result has the handler's return type. If another job held the
        unique key, this is the result of that job: of the same type if it fits, else plain JSON.
        """
        return cast("R", await self._queue.result(self, timeout=timeout))

    def watch(self) -> AsyncIterator[Progress]:
        """Iterate over the job's progress reports until it has ended; see `JobQueue.watch`."""
        return self._queue.watch(self.id)

    def stream(self, *, after: str | None = None) -> AsyncGenerator[chunks.Chunk, None]:
        """Iterate over what the job emits until it has ended; see `JobQueue.stream`."""
        return self._queue.stream(self.id, after=after)

    async def info(self) -> JobInfo | None:
        """Look the job up; see `JobQueue.get`."""
        return await self._queue.get(self.id)

    async def cancel(self) -> Reply:
        """Cancel the job; see `JobQueue.cancel` for the replies."""
        return await self._queue.cancel(self.id)

    async def signal(self, name: str, value: Any = None) -> Reply:
        """Send the job a signal; see `JobQueue.signal`."""
        return await self._queue.signal(self.id, name, value)


class JobQueue(Registry):
    """A queue of jobs: register handlers on it, and push jobs to it.

    Use it in `async with queue:`, or call `aclose` at the end. It connects with its first call.

    Args:
        where: `memory://`, `redis://…`, `rediss://…`, `unix://…`; `redis+cluster://HOST,HOST`,
            `redis+sentinel://HOST,HOST/NAME/0` or the same with `rediss`; `postgresql://USER@HOST/DATABASE`; a
            redis-py client, also of a cluster or of a sentinel's master; or a driver.
        name: The queue's name. Queues with different names share no jobs.
        retry: The retry policy of handlers that have none. Defaults to `exponential_jitter()`.
        max_parameters: The most bytes of JSON that a job's parameters may have. Defaults to 512 KiB.
        deadline: Seconds for which a call is retried while the store is unavailable. Defaults to 10 s.
        middleware: The queue's middleware, the outermost first; see `add_middleware`.
        retention: Which ended jobs the queue keeps, and for how long. Each worker stores it when it starts, in
            place of what is stored. None changes nothing. A new queue keeps up to 100,000 dead letters for 30
            days, and no completed or cancelled jobs.
    """

    def _connect(self, where: Any) -> None:
        self.driver, self._waitings = drivers.connect(where, self.name), Waitings()
        self._calls = Calls(self)
        self._pushing = Pushing[JobHandle[Any]](self, self._calls, self._handle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. You can use the queue again afterwards."""
        await self._disconnect()

    async def _disconnect(self) -> None:
        """Close all connections of this event loop, including those of this queue's worker."""
        self._waitings.close()
        await super()._disconnect()

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
    def schedules(self) -> Schedules[JobHandle[Any]]:
        """The schedules of this queue: list them, and make and change them at run time."""
        return Schedules(self, self._calls, self._pushing)

    @cached_property
    def control(self) -> "Control":
        """The operator's calls: look at the queue's jobs and workers, change them, find out what is wrong."""
        from redisjobs.control.control import Control  # here: a program that only pushes does not load it

        return Control(self, self._calls)

    @property
    def job(self) -> "JobDecorator":
        """Make the decorated function a job. Its arguments become the parameters; you can still call it.

        An argument annotated `JobContext` gets the context, and is not a parameter. If it comes first, type
        checkers check the arguments of a push; see `JobFunction`.

        Args:
            function: The function, or a partial, or a callable object.
            name: The job's name. Defaults to the function's.
            limit_key: Returns the job's key for the limit. It gets an object with the arguments as attributes.
            options: See `HandlerOptions`.

        Raises:
            RegistrationError: The name has a handler already, the signature does not fit a job, or pydantic
                can't read a type in it.
            TypeError: An option does not exist.
            ValueError: A limit is wrong.
        """
        return cast("JobDecorator", self._job)

    def _job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        return job_function(self, JobFunction, function, options)

    @overload
    async def push(
        self, parameters: P, name: JobName[P], within: Any = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    async def push(
        self,
        parameters: dict[str, Any],
        name: JobName[TypedMapping],
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> JobHandle[Any]: ...

    @overload
    async def push(
        self, parameters: Named, name: None = None, within: Any = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    @overload
    async def push(
        self, parameters: Any, name: str, within: Any = None, **options: Unpack[PushOptions]
    ) -> JobHandle[Any]: ...

    async def push(
        self,
        parameters: Any,
        name: JobName[Any] | str | None = None,
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> JobHandle[Any]:
        """Put a job on the queue. When this returns, the job is there.

        Args:
            parameters: An instance of the type that the handler takes.
            name: The job's name, if the type of the parameters has no `job_name` or serves several names. It is a
                JobName, or the name of a handler registered here; then parameters may be a dict of the fields.
            within: A connection to Postgres, or a session: the job is pushed in its transaction. A rollback takes
                it back. If the queue is on Redis, the job is written to an outbox there, and `redisjobs relay`
                pushes it after the commit. See the guide on pushes within a transaction for the libraries.
            options: See `PushOptions`.

        Returns:
            A handle with the job's `id`, and whether the job was `added`. It was not added if a job with this id
            is on the queue, or if another job holds the unique key. Then `id` is the id of that other job, and
            `replaced` says whether this push replaced it. With an outbox, `added` is None: it is not known yet.

        Raises:
            NoTransaction: The connection of `within` has no transaction to write in. Nothing was written.
            EncodeError: The parameters don't fit their declared type, or are too large. Nothing was sent.
            UnknownJob: No handler here has that name. Nothing was sent.
            UniqueConflict: Another job holds the unique key, and `on_conflict` is `"raise"`. Nothing was written.
            QueueFull: The server is out of memory. Nothing was written.
            WrongType: A key of the queue has the wrong type. Nothing was written.
            Unavailable: The server did not answer until the deadline. The job may or may not be on the queue.
            DriverError: One of the last three, or another error of the server. Up to 50 s after the push began,
                `push_many(error.jobs)` repeats the push, and adds no job twice. A later repetition is refused.
        """
        conflicts: list[Conflict] = []
        job = self.prepare(parameters, name, **options)
        if within is not None:
            return (await self._pushing.push_within(within, [job]))[0]
        (handle,) = await self._pushing.push([job], conflicts)
        raise_conflicts(conflicts)
        return handle

    @overload
    async def push_many(
        self, items: Iterable[P | NewJob], name: JobName[P], within: Any = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self,
        items: Iterable[dict[str, Any] | NewJob],
        name: JobName[TypedMapping],
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self,
        items: Iterable[Named | NewJob],
        name: None = None,
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> list[JobHandle[Any]]: ...

    @overload
    async def push_many(
        self, items: Iterable[Any], name: str, within: Any = None, **options: Unpack[PushOptions]
    ) -> list[JobHandle[Any]]: ...

    async def push_many(
        self,
        items: Iterable[Any],
        name: JobName[Any] | str | None = None,
        within: Any = None,
        **options: Unpack[PushOptions],
    ) -> list[JobHandle[Any]]:
        """Put many jobs on the queue, in order, with one script call for each 500.

        The items are parameters, as in `push`, or jobs that `prepare` made. A generator is fine: items are read
        chunk by chunk. A prepared job keeps its own options. You can push it again up to 50 s after its first
        push, and it is not added twice. With `within`, all items are read before the first is written.

        Raises:
            EncodeError: An item is wrong. The chunks before its chunk were pushed; its chunk was not.
            UniqueConflict: Other jobs hold unique keys, and `on_conflict` is `"raise"`. The rest was pushed.
            DriverError: See `push`. The chunks before this one were pushed. The `jobs` of the error may not be on
                the queue: this chunk, and the next one if it was encoded. Later items were not read.
        """
        if within is not None:
            prepared = self._prepare_many(items, name, options)
            return await self._pushing.push_within(within, [job for chunk in prepared for job in chunk.jobs])
        conflicts: list[Conflict] = []

        async def push(chunk: PushChunk) -> list[JobHandle[Any]]:
            return await self._pushing.push(chunk.jobs, conflicts, prepared=chunk.prepared)

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

        Redis keeps a result if the push or the handler has `keep_result=`. The wait does not poll: all waits of
        this process share one connection, on which Redis sends notifications.

        Args:
            job: Its id, or its handle.
            timeout: How long to wait; 0 looks once. Defaults to no limit. The job itself goes on after a timeout.
            returns: The type that the result must fit. With a handle it defaults to the return type of the
                handler, if it is registered here; else to plain JSON: dicts, lists, strings, numbers.

        Raises:
            TimeoutError: The job has not ended in that time.
            JobFailed: The job is a dead letter. The error has type, message and traceback.
            JobCancelled: The job was cancelled.
            ResultRefused: The job is done, but its result could not be stored.
            ResultExpired: The job is done, but its result is no longer kept.
            ResultNotKept: No result is kept, or the job is unknown. Raised at once if that is known already, else
                when the job ends.
            DecodeError: The result does not fit the type.
            DriverError: Redis refuses to answer. While Redis is unavailable, this waits, except with `timeout=0`.
        """
        job_id, wanted = id_of(job), expected(self.definitions, job, returns)
        limit = None if timeout is None else seconds(timeout, "timeout")
        return await self._waitings.result(self.driver, self.name, job_id, wanted, limit)

    def watch(self, job: str | PushedJob) -> AsyncIterator[Progress]:
        """Iterate over a job's progress reports with `async for`, until the job has ended.

        The first item is the last report so far. If reports come faster than you read them, you get only the
        newest. `result` and `get` return how the job has ended. An unknown job counts as ended. While Redis is
        unavailable, this waits; it raises a `DriverError` if Redis refuses to answer.
        """
        return self._waitings.progress(self.driver, self.name, id_of(job))

    def stream(self, job: str | PushedJob, *, after: str | None = None) -> AsyncGenerator[chunks.Chunk, None]:
        """Iterate over what a job emits by `context.emit`, with `async for`, until the job has ended.

        Each chunk comes once and in order, also if the connection breaks. All readers of a process share one
        connection, and nothing polls. The queue keeps the last 10,000 chunks of a job, 4 MB at most, for a day
        after the last one; once the job has ended, as long as its result, at least a minute. An unknown job counts
        as ended. While Redis is unavailable, this waits.

        Args:
            job: Its id, or its handle.
            after: The id of the last chunk that you have. Defaults to all chunks.

        Raises:
            ChunksLost: You have fallen behind the oldest chunk that is kept.
            DecodeError: A chunk was changed in the store.
            DriverError: Redis refuses to answer.
            ValueError: This is not the id of a chunk.
        """
        return self._stream(id_of(job), chunks.checked_after(after))

    async def _stream(self, job_id: str, after: str) -> AsyncGenerator[chunks.Chunk, None]:
        async with aclosing(self._waitings.chunks(self.driver, self.name, job_id, after)) as pages:
            async for page in pages:
                for chunk in page:
                    yield chunk

    async def get(self, job: str | PushedJob) -> JobInfo | None:
        """Look up a delayed, ready, running, suspended or dead job; return None if it ended or never existed.

        It finds completed and cancelled jobs only if the queue keeps them: see `Retention`.
        """
        return await self._calls.do(jobs.get(job))

    async def cancel(self, job: str | PushedJob) -> Reply:
        """Cancel a job, and its children that have not ended; `children` says how many these are.

        Returns:
            CANCELLED: the job was delayed, ready or suspended, and is removed. CANCELLING: it runs; its worker
            cancels the handler, and it won't run again. DEAD: it is a dead letter, and stays one. NOT_FOUND: it
            ended, or never existed.
        """
        return await self._calls.do(jobs.cancel(job))

    async def signal(self, job: str | PushedJob, name: str, value: Any = None) -> Reply:
        """Send a signal to a job, which takes it by `context.wait_for`.

        A job takes each signal once. Of each name it keeps one until it waits for it: the first one.

        Args:
            job: Its id, or its handle.
            name: The name of the signal: 1 to 200 characters, no spaces and no `#`.
            value: Plain JSON, which the wait returns.

        Returns:
            OK: the job waited for it, and is ready to go on. KEPT: the job does not wait for it now, and will find
            it when it does. EXISTS: it keeps an earlier signal of this name, so this one was not taken. DEAD: the
            job is a dead letter, and took nothing; requeue it first. NOT_FOUND: the job has ended, or never
            existed.

        Raises:
            EncodeError: The value is no plain JSON, or too large. Nothing was sent.
            StepsFull: The job keeps as many signals as it may. Nothing was written.
            ValueError: The name is wrong.
        """
        return await self._calls.do(jobs.signal(job, name, value, self.max_parameters))

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

        The `timeout` limits the wait after the push. `keep_result` defaults to the handler's option, else to one
        hour.

        Raises:
            NoResult: See `result`, also for TimeoutError, DecodeError and DriverError.
            EncodeError: See `push`.
            ValueError: The value of an option is wrong, for example `keep_result=0`.
            RegistrationError: The return type of its handler can't be read. Nothing was pushed.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        job, conflicts = self._prepare_awaited(parameters, name, options), list[Conflict]()
        (handle,) = await self._pushing.push([job], conflicts)
        raise_conflicts(conflicts)
        return await self.result(handle, timeout=limit)

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
        self, function: Callable[Concatenate[JobContext[AppState], Given], Returned], /
    ) -> "JobFunction[Concatenate[JobContext[AppState], Given], Given, Returned]": ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[sync_verbs.JobContext[AppState], Given], Returned], /
    ) -> "JobFunction[Concatenate[sync_verbs.JobContext[AppState], Given], Given, Returned]": ...

    @overload
    def __call__(self, function: Callable[Args, Returned], /) -> "JobFunction[Args, Args, Returned]": ...

    @overload
    def __call__(
        self, /, *, name: str | None = None, limit_key: LimitKey | None = None, **options: Unpack[HandlerOptions]
    ) -> "JobDecorator": ...


class JobFunction(FunctionJob[Args, Given, Returned_co]):
    """A function that is also a job of an async queue; see `FunctionJob`."""

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
        return await self._queue.push(parameters, self.name, within=self._within, **self._options)

    @overload
    async def run(
        self: "JobFunction[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> R: ...

    @overload
    async def run(self: "JobFunction[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs) -> R: ...

    async def run(self, *args: Given.args, **kwargs: Given.kwargs) -> Any:
        """Push a call of the function, and wait for its result. Use `asyncio.timeout` to limit the wait."""
        self._check_no_transaction()
        parameters = self._signature.arguments(*args, **kwargs)
        return await self._queue.run(parameters, self.name, **self._options)
