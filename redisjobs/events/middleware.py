"""Middleware: code that takes part in what happens to a job. To only get notice of it, subscribe to events.

Which hooks a middleware overrides is found once, when a queue gets it or a worker starts. Other hooks cost
nothing.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from redisjobs.base.eventloop import is_awaitable, is_cancelled
from redisjobs.base.logger import Log, is_ctrl_c
from redisjobs.base.visible import visible
from redisjobs.errors import DecodeError
from redisjobs.model import codec
from redisjobs.model.context import JobContext
from redisjobs.model.job import Priority
from redisjobs.model.transitions import After, At, Lease, NewJob

if TYPE_CHECKING:
    from redisjobs.events.kinds import SettledJob
    from redisjobs.model.outcome import Outcome

logger = Log("redisjobs")

Hook = Callable[..., Any]
CallNext = Callable[[], Awaitable[Any]]
"""Runs what is inside, the next middleware or at last the handler, and returns what that returns."""

CallNextSync = Callable[[], Any]
"""The same for `around_sync`."""


PushEnded = Callable[[bool, BaseException | None], object]
"""Called at the end of a push with whether it added the job, and with the error that it raised, or None."""


class OutgoingJob:
    """A job that is about to be pushed. Only its headers can be changed."""

    __slots__ = ("_before", "_headers", "_job", "_when_ended", "queue_name")

    def __init__(self, job: NewJob, queue_name: str, when_ended: Callable[[PushEnded], object]) -> None:
        self.queue_name = queue_name  # the queue that it is pushed to
        self._when_ended = when_ended
        self._job = job
        self._before = codec.decode_headers(dict(_pairs(job)).get("headers"))
        self._headers: dict[str, str] = dict(self._before)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the job: those of the push, and those that hooks have added."""
        return self._headers

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._job.job_id

    @property
    def name(self) -> str:
        """The job's name."""
        name = self._job.fields[1]
        return name if isinstance(name, str) else name.decode("utf-8", "replace")

    @property
    def priority(self) -> Priority:
        """The job's priority."""
        return self._job.priority

    @property
    def delay(self) -> float | None:
        """Seconds from the push before the job may run; None if it has no delay."""
        due = self._job.due
        return due.ms / 1000 if isinstance(due, After) else None

    @property
    def at(self) -> datetime | None:
        """The earliest time at which the job may run; None if it has no such time."""
        due = self._job.due
        return codec.when(due.ms) if isinstance(due, At) else None

    def when_pushed(self, call: PushEnded) -> None:
        """Call a function once the push of this job has ended, with or without success.

        It is called as `call(added, error)`: whether the push added the job, and the error that the push raised,
        or None. The error may be a cancellation. The call comes after all tries, and before the caller gets its
        handle. What `call` raises is logged.
        """
        self._when_ended(call)

    def write(self) -> None:
        """Write changed headers into the job itself, so that a repeated push has them too."""
        headers = {key: value for key, value in self._headers.items() if self._fits(key, value)}
        if headers == self._before or self._job.tries is not None:  # another task has pushed it meanwhile
            return
        fields = [part for pair in _pairs(self._job) if pair[0] != "headers" for part in pair]
        if headers:
            fields += ["headers", codec.encode_headers(headers)]
        self._job.fields = fields

    def _fits(self, key: str, value: str) -> bool:
        try:
            codec.encode_headers({key: value})
        except Exception as error:  # a value that is not a string may raise anything
            name, job_id = visible(self.name), visible(self.job_id)
            logger.error("job %s (%s): a middleware's header is left out: %s", job_id, name, error)
            return False
        return True


def _pairs(job: NewJob) -> Iterable[tuple[str | bytes, str | bytes]]:
    return zip(job.fields[::2], job.fields[1::2], strict=True)


# Plain classes: making a dataclass takes longer than the rest of this module, and every producer imports it.


class RunningJob:
    """A job whose handler is about to run.

    Attributes:
        job_id: The job's id.
        name: The job's name.
        is_async: Whether its handler is async. A sync handler runs in a thread or a process.
    """

    __slots__ = ("_parameters", "is_async", "job_id", "name")

    def __init__(self, job_id: str, name: str, parameters: Any, *, is_async: bool = True) -> None:
        self.job_id = job_id
        self.name = name
        self.is_async = is_async
        self._parameters = parameters

    @property
    def parameters(self) -> Any:
        """What the handler gets: an instance of the declared type or, for a function, its arguments by name."""
        return self._parameters


class ClaimedJob:
    """A job that a worker has claimed.

    Attributes:
        job_id: The job's id.
        name: The job's name; '?' if its entry can't be read.
        attempt: The number of this attempt, from 1.
        deliveries: How often the job was delivered since its last outcome, this time included.
        headers: The headers of its push.
    """

    __slots__ = ("attempt", "deliveries", "headers", "job_id", "name")

    def __init__(self, lease: Lease) -> None:
        self.job_id = lease.job_id
        self.deliveries = lease.deliveries
        self.name, self.attempt = "?", 1
        self.headers: Mapping[str, str] = {}
        with suppress(DecodeError):
            job = codec.decode_job(lease)
            self.name, self.attempt, self.headers = job.name, job.attempt, job.read_headers()


class Middleware:
    """Takes part in the jobs of a queue. Derive from it, and override the hooks that you need.

    A hook that is not overridden costs nothing. Hooks get an `OutgoingJob`, a `RunningJob` or a `ClaimedJob` of
    `redisjobs.events.middleware`, or a `SettledJob` of `redisjobs.events`. `on_push`, `on_claim` and `on_settled`
    may be `async def` or plain. For a sync queue, `on_push` must be plain. Plain ones run in the thread that calls
    them, usually an event loop's, so they must be quick.
    """

    def on_push(self, job: OutgoingJob) -> Awaitable[None] | None:
        """Inspect a job before it is pushed, and add headers to it.

        What it raises is logged, and the push goes on. Headers that can't be written are logged and left out. A
        repeated push, as by `push_many(error.jobs)`, is the same push, so the hook is not called again.
        """
        return None

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        """Run around a job's handler: `return await call_next()`, with your code before and after.

        It runs in the job's own context and within its timeout, and is cancelled together with the handler. If it
        raises, the job has failed; an error of the handler that it catches is no failure. What it returns is the
        job's result, if that is kept. `call_next` runs the handler once: a second call raises RuntimeError. If you
        don't call it, the handler does not run, and the job is done.
        """
        return await call_next()

    def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
        """Run around a sync handler, in its thread: `return call_next()`, with your code before and after.

        It may block, and is the place for what belongs to a thread, such as a database connection. It runs inside
        all `around` hooks, and follows their rules. It is not called for an async handler, nor for one with
        `run_in="process"`.
        """
        return call_next()

    def on_claim(self, job: ClaimedJob) -> Awaitable[None] | None:
        """Observe, soon after a claim, that this worker has got a job. What it raises is logged."""
        return None

    def on_settled(self, job: "SettledJob", outcome: "Outcome | None") -> Awaitable[None] | None:
        """Observe, soon after a settlement, how a job was settled: `job.kind` is the class of its event.

        What it raises is logged. `outcome` is the outcome of the run, or None if no worker ran the job, because
        Redis ended it.
        """
        return None


def checked(middleware: Middleware, *, awaits_push: bool) -> Middleware:
    """Check that a middleware's hooks can be called, and return it. `awaits_push`: `on_push` may be async.

    Raises:
        TypeError: It is not a middleware, `around` is not async or `around_sync` is, or `on_push` is async and
            can't be awaited.
    """
    if not isinstance(middleware, Middleware):
        raise TypeError(
            f"middleware={_shown(middleware)} is not a middleware: give an instance of a class derived from "
            "Middleware"
        )
    kind = type(middleware).__name__
    if not inspect.iscoroutinefunction(middleware.around):
        raise TypeError(
            f"{kind}.around must be `async def`: it runs in a worker's event loop, and awaits call_next"
        )
    if inspect.iscoroutinefunction(middleware.around_sync):
        raise TypeError(
            f"{kind}.around_sync is async, but it runs in the thread of a sync handler: make it a plain function"
        )
    if not awaits_push and inspect.iscoroutinefunction(middleware.on_push):
        raise TypeError(f"{kind}.on_push is async, but a sync queue can't await it: make it a plain function")
    return middleware


def all_checked(middleware: Iterable[Middleware], *, awaits_push: bool) -> tuple[Middleware, ...]:
    """Check a list of middleware, and return it; see `checked`.

    Raises:
        TypeError: It is not a list, or an item of it can't be used.
    """
    if not isinstance(middleware, Iterable):
        raise TypeError(
            f"middleware={_shown(middleware)}: give a list of instances of classes derived from Middleware"
        )
    return tuple(checked(each, awaits_push=awaits_push) for each in middleware)


def _shown(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else repr(given)


def hooks(middleware: Iterable[Middleware], name: str) -> tuple[Hook, ...]:
    """Return the hooks of one name that are overridden, in the order of the middleware."""
    of_all = (getattr(each, name) for each in middleware)
    return tuple(hook for hook in of_all if getattr(hook, "__func__", hook) is not getattr(Middleware, name))


class PushEnds:
    """The calls that wait for the end of one push."""

    __slots__ = ("_queue_name", "_waiting")

    def __init__(self, queue_name: str) -> None:
        self._queue_name = queue_name
        self._waiting: list[tuple[int, PushEnded]] = []

    def outgoing(self, jobs: Iterable[NewJob]) -> list[OutgoingJob]:
        """Return the jobs that were not sent before, for hooks to inspect."""
        return [
            OutgoingJob(job, self._queue_name, partial(self._wait, number))
            for number, job in enumerate(jobs)
            if job.tries is None
        ]

    def _wait(self, number: int, call: PushEnded) -> None:
        self._waiting.append((number, call))

    def tell(self, added: Sequence[bool], error: BaseException | None = None) -> None:
        """Make the calls, with whether each job of the push was added, or with the error."""
        for number, call in self._waiting:
            try:
                call(error is None and added[number], error)
            except BaseException as raised:
                _show(call, raised)


NO_CALLS = PushEnds("")
"""For a push without hooks."""


async def before_push(on_push: Sequence[Hook], jobs: Iterable[NewJob], queue_name: str) -> PushEnds:
    """Call the hooks of an async queue with each job that was not sent before; return the calls for the end."""
    ends = PushEnds(queue_name)
    try:
        for job in ends.outgoing(jobs):
            for hook in on_push:
                returned = _called(hook, job)
                if is_awaitable(returned):
                    try:
                        await returned
                    except BaseException as error:
                        if isinstance(error, GeneratorExit) or _ends_task(error):
                            raise
                        _show(hook, error)
            job.write()
    except BaseException as error:
        ends.tell((), error)
        raise
    return ends


def before_push_sync(on_push: Sequence[Hook], jobs: Iterable[NewJob], queue_name: str) -> PushEnds:
    """Call the hooks of a sync queue; see `before_push`."""
    ends = PushEnds(queue_name)
    for job in ends.outgoing(jobs):
        for hook in on_push:
            returned = _called(hook, job)
            if is_awaitable(returned):
                if inspect.iscoroutine(returned):
                    returned.close()  # else Python would warn that it was never awaited
                _show(hook, TypeError("it returned something to await, but a sync queue can't"))
        job.write()
    return ends


def _ends_task(error: BaseException) -> bool:
    return isinstance(error, anyio.get_cancelled_exc_class()) and is_cancelled()


def _called(hook: Hook, job: OutgoingJob) -> Any:
    try:
        return hook(job)
    except BaseException as error:
        _show(hook, error)
        return None


def _show(hook: Hook, error: BaseException) -> None:
    if is_ctrl_c(error):
        raise error
    log_raised(hook, error)


def log_raised(hook: Hook, error: BaseException) -> None:
    """Log what a hook raised, which must not end the caller."""
    logger.error("%s of a middleware raised; nothing else is affected", hook_name(hook), exc_info=error)


def hook_name(hook: Hook) -> str:
    """Return the name of a hook, for people."""
    return visible(str(getattr(hook, "__qualname__", None) or f"a {type(hook).__name__}"))
