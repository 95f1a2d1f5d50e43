"""The async face of a queue: register handlers, push jobs, look at them, act on them."""

import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack, overload

import anyio
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from redisjobs import codec, drivers
from redisjobs.codec import JobInfo
from redisjobs.driver import LONGEST_TRY, MOST_JOBS, Counts, NewJob, Pushed, Word
from redisjobs.errors import DecodeError, QueueFull, Unavailable
from redisjobs.job import JobName, Signature, State
from redisjobs.registry import Args, Duration, FunctionJob, PushOptions, Registry, Returned
from redisjobs.retry import RetryPolicy

T = TypeVar("T")


class JobQueue(Registry):
    """A queue of jobs: what producers push to, and where handlers are registered.

    Use it as `async with queue:`, or call `aclose` at the end; connections open when first needed.

    Args:
        where: `memory://`, `redis://…`, `rediss://…`, `unix://…`, an existing redis-py client, or a driver.
        name: The queue's name; jobs of different queues never mix.
        retry: The retry policy of handlers that name none. Defaults to `exponential_jitter()`.
        max_parameters: Bytes of JSON that a job's parameters may have. Defaults to 512 KiB.
        deadline: Seconds that a call is retried for while the store is away. Defaults to 10 s.
    """

    def __init__(
        self,
        where: Any,
        name: str = "default",
        *,
        retry: RetryPolicy | None = None,
        max_parameters: int = codec.MAX_PARAMETERS,
        deadline: Duration = 10,
    ) -> None:
        super().__init__(name, retry=retry, max_parameters=max_parameters, deadline=deadline)
        self.driver = drivers.connect(where, name)

    def move(self, where: Any) -> None:
        """Let the queue be somewhere else, before its first call; `where` as for the queue itself."""
        self.driver = drivers.connect(where, self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the queue can be used again after."""
        await self.driver.aclose()

    @overload
    def job(self, function: Callable[Args, Returned], /) -> "JobFunction[Args, Returned]": ...

    @overload
    def job(
        self, /, *, name: str | None = None, retry: RetryPolicy | None = None, timeout: Duration | None = None
    ) -> "JobDecorator": ...

    def job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make the decorated function a job: its signature is the parameters, and it can still be called.

        An argument annotated `JobContext` gets the context and is no parameter.

        Args:
            function: The function.
            options: `name`, the job's, by default the function's; `retry`, when a failed run is tried again, by
                default the queue's policy; `timeout`, how long one run may take, by default no limit.

        Raises:
            RegistrationError: The name has a handler already, or the signature can't be a job's.
        """

        def decorate(function: Callable[..., Any]) -> JobFunction[..., Any]:
            return JobFunction(self, function, *self.register_function(function, **options))

        return decorate if function is None else decorate(function)

    async def push(self, parameters: Any, name: JobName[Any] | None = None, **options: Unpack[PushOptions]) -> str:
        """Put a job on the queue; when this returns, it is there.

        Args:
            parameters: What the handler gets: an instance of the declared type.
            name: For parameters whose type has no `job_name` of its own, or serves several names.
            options: See `PushOptions`.

        Returns:
            The job's id; with `unique=`, maybe the id of the job that holds the key.

        Raises:
            EncodeError: The parameters don't fit their declared type, or are too large; nothing was sent.
            QueueFull: The server is out of memory; nothing was written.
            DriverError: No answer until the deadline. The job may or may not be there; pushing the same id
                again, which the error has in `job_ids`, is safe.
        """
        job = self.prepare(parameters, name, **options)
        (pushed,) = await self._push([job])
        return pushed.holder or job.job_id

    async def push_many(
        self, items: Iterable[Any], name: JobName[Any] | None = None, **options: Unpack[PushOptions]
    ) -> list[str]:
        """Put many jobs on the queue, in order, one script call for each 500.

        Args:
            items: Parameters, or what `prepare` made of them; taken as needed, so a generator is fine.
            name: As for `push`.
            options: As for `push`, for all of them but those already prepared.

        Returns:
            Their ids, as `push` returns them.

        Raises:
            EncodeError: One of them is bad; the chunks before its own were pushed, nothing of its own was.
            DriverError: As for `push`; the chunks before were pushed.
        """
        ids: list[str] = []
        for jobs in self.prepare_many(items, name, options):
            answers = await self._push(jobs)
            ids += [answer.holder or job.job_id for job, answer in zip(jobs, answers, strict=True)]
        return ids

    async def get(self, job_id: str) -> JobInfo | None:
        """Look a job up: delayed, ready, running or dead; None if it ended or never was."""
        row = await self._call(lambda: self.driver.find(job_id))
        return None if row is None else codec.job_info(row)

    async def jobs(self, state: State | str, limit: int = 100) -> list[JobInfo]:
        """List jobs of one state: ready and running by priority and age, delayed by due time, dead newest first.

        Args:
            state: delayed, ready, running or dead.
            limit: How many at most; up to 500.

        Raises:
            ValueError: There is no such state, or the limit is less than 1.
        """
        wanted, most = State(state), checked_limit(limit)
        rows = await self._call(lambda: self.driver.jobs(wanted, most))
        return [codec.job_info(row) for row in rows]

    async def counts(self) -> Counts:
        """How many jobs are in each state at one instant."""
        return await self._call(self.driver.counts)

    async def cancel(self, job_id: str) -> Word:
        """Cancel a job.

        Returns:
            CANCELLED: it was delayed or ready, and is gone. CANCELLING: it runs, its handler is being
            cancelled, and it won't run again. DEAD: it is a dead letter, and stays. NOT_FOUND: it ended, or
            never was.
        """
        return await self._call(lambda: self.driver.cancel(job_id))

    async def requeue(self, job_id: str) -> bool:
        """Give a dead letter another life: ready, under its old id, with all its attempts.

        Returns:
            Whether there was one.

        Raises:
            DecodeError: The entry, put in by hand, is too large to be moved; it stays.
        """
        return requeued(job_id, await self._call(lambda: self.driver.requeue(job_id)))

    async def delete(self, job_id: str) -> bool:
        """Throw a dead letter away; whether there was one."""
        return await self._call(lambda: self.driver.delete(job_id)) is Word.OK

    async def _push(self, jobs: Sequence[NewJob]) -> list[Pushed]:
        again = any(job.given_id for job in jobs)
        first = functools.partial(self.driver.push, jobs, again=again)
        return await self._call(first, functools.partial(self.driver.push, jobs, again=True), jobs)

    async def _call(
        self,
        call: Callable[[], Awaitable[T]],
        repeat: Callable[[], Awaitable[T]] | None = None,
        jobs: Sequence[NewJob] = (),
    ) -> T:
        """Call the store, and again with backoff and jitter while it is away, until the deadline."""
        cause: BaseException | None = None
        began = anyio.current_time()
        try:
            if jobs and self.deadline >= LONGEST_TRY:
                return await call()  # it ends in time by itself, and a scope would cost as much as all else here
            with anyio.fail_after(self.deadline):
                return await call()
        except (Unavailable, TimeoutError) as error:
            cause = error
        with anyio.move_on_after(began + self.deadline - anyio.current_time()):
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(Unavailable),
                wait=wait_random_exponential(multiplier=0.05, max=1),
                stop=stop_after_delay(self.deadline),
                sleep=anyio.sleep,
                reraise=True,
            )
            try:
                # tenacity has to see that it is a coroutine function: a lambda it would call and not await.
                async def again() -> T:
                    return await (repeat or call)()

                return await retrying(again)
            except (Unavailable, QueueFull) as error:  # full now; but an earlier try may have been stored
                cause = error
        raise gave_up(jobs, self.deadline, cause) from cause


class JobDecorator(Protocol):
    """What `job(...)` returns: makes a function a job."""

    def __call__(self, function: Callable[Args, Returned], /) -> "JobFunction[Args, Returned]":
        """Make a function a job."""


class JobFunction(FunctionJob[Args, Returned]):
    """A function that is a job of an async queue as well; see `FunctionJob`."""

    def __init__(
        self, queue: JobQueue, function: Callable[Args, Returned], name: JobName[Any], signature: Signature
    ) -> None:
        super().__init__(queue, function, name, signature)
        self._queue = queue

    async def push(self, *args: Args.args, **kwargs: Args.kwargs) -> str:
        """Put a call of the function on the queue; see `JobQueue.push`."""
        parameters = self._signature.arguments(*args, **kwargs)
        return await self._queue.push(parameters, self.name, **self._options)


def checked_limit(limit: int) -> int:
    """How many jobs one call may list.

    Raises:
        ValueError: Less than one.
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: list at least one job")
    return min(limit, MOST_JOBS)


def requeued(job_id: str, word: Word) -> bool:
    """What a requeue's word means to the caller."""
    if word is Word.OVERSIZED:
        raise DecodeError(f"{job_id}: the entry was put in by hand with more fields than can be moved; it stays")
    return word is Word.OK


def gave_up(jobs: Sequence[NewJob], deadline: float, cause: BaseException | None) -> Unavailable:
    """The error of a call that got no answer until its deadline."""
    said = str(cause or "").rstrip(".") or "it accepted the connection and said nothing"
    why = f"no answer from the store in {deadline:g} s: {said}"
    if isinstance(cause, QueueFull):
        why = f"no answer from the store at first, then: {said}"
    if not jobs:
        return Unavailable(why)
    ids = [job.job_id for job in jobs]
    named = ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
    return Unavailable(
        f"{why}. The push may or may not be on the queue; pushing the same job id again is safe ({named})",
        job_ids=ids,
    )
