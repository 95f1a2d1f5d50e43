"""What a handler is told of the job it runs, and what it can say: how far it is, and what is to be pushed."""

import logging
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Generic, TypeVar, Unpack, overload

from redisjobs.base.arguments import seconds
from redisjobs.base.visible import visible
from redisjobs.model.job import AppState, JobName, Named, PushedJob, TypedMapping
from redisjobs.model.options import PushOptions
from redisjobs.model.progress import (
    AsyncTracked,
    Extension,
    Item,
    MessageSink,
    Progress,
    Pushing,
    counted,
    note_of,
    progress_of,
    total_of,
    tracked,
)
from redisjobs.model.transitions import NewJob

P = TypeVar("P")


class JobContext(Generic[AppState]):
    """What a handler is told of the job it runs.

    A handler that says `JobContext[Resources]` has `context.state` of that type.

    Attributes:
        job_id: The same for all its attempts; what an idempotent handler remembers.
        job_name: Its name.
        queue_name: The queue it came from.
        attempt: Which attempt this is, from 1; failed runs count, lost workers don't.
        deliveries: How often it was delivered since its last outcome, lost workers included.
        worker_id: Who runs it.
        keeps_result: Whether what the handler returns is kept.
    """

    # Of the class, as few contexts ever have others: one is made for each job.
    _has_state: bool = True
    _progress: Progress | None = None
    _only_slot_of: Sequence[str] = ()  # the queues of its worker, if that runs one job at a time

    def __init__(
        self,
        *,
        job_id: str,
        job_name: str,
        queue_name: str,
        attempt: int,
        deliveries: int,
        queued_ms: int,
        scheduled_ms: int | None,
        next_scheduled_ms: int | None,
        read_headers: Callable[[], Mapping[str, str]],
        worker_id: str,
        state: AppState,
        sink: MessageSink | None = None,
        keeps_result: bool = False,
    ) -> None:
        self.job_id = job_id
        self.job_name = job_name
        self.queue_name = queue_name
        self.attempt = attempt
        self.deliveries = deliveries
        self._queued_ms = queued_ms
        self._scheduled_ms = scheduled_ms
        self._next_scheduled_ms = next_scheduled_ms
        self._read_headers = read_headers
        self.worker_id = worker_id
        self.keeps_result = keeps_result
        self._state = state
        self._hearer = sink
        self.cancelled = False
        """Whether this run was given up: timed out, cancelled, shut down or its lease lost. An async handler is
        interrupted then; a sync one runs on in its thread, its outcome ignored, and may look here."""

    @property
    def state(self) -> AppState:
        """What the application has set as `queue.state`: a database pool, an HTTP client.

        Raises:
            AttributeError: This is a process of the handler's own, and the state is the worker's.
        """
        if not self._has_state:
            raise AttributeError(
                f'{self.job_name} runs in a process of its own, by run_in="process": queue.state stays with the '
                "worker; make what the handler needs in its module"
            )
        return self._state

    # What the handler says of itself

    @overload
    def progress(self, fraction: float, /, note: str = ...) -> None: ...

    @overload
    def progress(self, done: float, total: float | None, /, note: str = ...) -> None: ...

    @overload
    def progress(self, note: str) -> None: ...

    def progress(self, *said: float | str | None, note: str | None = None) -> None:
        """Say how far this run is: `progress(0.4)`, `progress(12, 30)`, either with a note, or a note alone.

        It costs microseconds, and waits for nothing: what was said last is published at most 4 times a second,
        within half a second. Any thread of the handler may call it, and one in a process as well. Once the run is
        over, or was given up, it does nothing.

        Args:
            said: A fraction from 0 to 1; or what is done and the total, in a unit of your own, the total None if
                nobody knows it. More than the total may be done, as that may be an estimate.
            note: A line of text, of which 200 characters are kept. A note alone leaves the numbers as they were;
                numbers alone take the note away.

        Raises:
            ValueError: A number is none, negative or too large, or the note is no text.
            TypeError: Nothing was given, or too much.
        """
        self._say(progress_of(said, note, self._progress))

    def _say(self, progress: Progress) -> None:
        self._progress = progress
        if self._hearer is not None:
            self._hearer.hear(progress)

    @overload
    def track(self, items: Iterable[Item], total: float | None = None, note: str = "") -> Iterator[Item]: ...

    @overload
    def track(
        self, items: AsyncIterable[Item], total: float | None = None, note: str = ""
    ) -> AsyncIterator[Item]: ...

    def track(
        self, items: Iterable[Item] | AsyncIterable[Item], total: float | None = None, note: str = ""
    ) -> Iterator[Item] | AsyncIterator[Item]:
        """The items, for a loop over them that says by itself how far it is; see `progress`.

        An item is done when the next one is asked for.

        Args:
            items: What `for` takes, or `async for`.
            total: How many there are. Defaults to their `len()`, if they have one.
            note: Goes with each report.

        Raises:
            ValueError: The total can't be one, or the note is no text.
            TypeError: No loop could go over the items.
        """
        many, text = total_of(items, total), note_of(note)

        def report(done: int) -> None:
            self._say(counted(done, many, text))

        if isinstance(items, Iterable):
            return tracked(items, report)
        if isinstance(items, AsyncIterable):
            return AsyncTracked(items, report)
        raise TypeError(f"track({items!r}): give it what `for` or `async for` can go over")

    def extend(self, duration: float | timedelta) -> None:
        """Let this run take longer: its `timeout` is over so much from now, if not later anyway.

        A job that has no timeout is not limited, and this does nothing; nor does it once the run is over, or was
        given up. It is no progress, so `stalled_after` is left as it is.

        Args:
            duration: Seconds or a timedelta.

        Raises:
            ValueError: It is negative, or no duration.
        """
        extension = Extension(seconds(duration, "duration"))
        if self._hearer is not None:
            self._hearer.hear(extension)

    @overload
    def push(self, parameters: P, name: JobName[P], **options: Unpack[PushOptions]) -> PushedJob: ...

    @overload
    def push(
        self, parameters: dict[str, Any], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> PushedJob: ...

    @overload
    def push(self, parameters: Named, name: None = None, **options: Unpack[PushOptions]) -> PushedJob: ...

    @overload
    def push(self, parameters: NewJob, name: None = None) -> PushedJob: ...

    @overload
    def push(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> PushedJob: ...

    def push(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> PushedJob:
        """Push a job to this queue as this one ends: both happen, or neither does.

        It costs no round trip, and needs no `await`: the job is added by the step that ends this one, once the
        handler has returned. If it raises, or its worker dies, nothing is pushed, and the next run pushes anew. A
        job whose id or unique key is another's by then is not added; a unique key of this job is free for it.

        Args:
            parameters: As for `JobQueue.push`; or what `prepare` made, of the queue or of a job function, as in
                `context.push(resize.prepare("a.png", width=64))`.
            name: As for `JobQueue.push`.
            options: As for `JobQueue.push`. Without a `job_id` the id is made of the id of this job, of how many
                it has pushed before, and of the name, so that each run makes the same.

        Returns:
            The job, its `added` None, as that is not known yet.

        Raises:
            UnknownJob: No handler here has that name.
            EncodeError: The parameters don't fit their declared type, or are too large.
            ValueError: An option makes no sense, as `on_conflict="raise"`, for it is pushed only when the handler
                has returned. Or the id is that of this job, or another queue prepared it. Or these are more than
                500 jobs, or 4 MB.
            TypeError: There is no such option, or what is given as parameters is something else.
            RuntimeError: The run is over, or was given up.
        """
        pushed: PushedJob | None = None
        if self._hearer is not None:
            pushed = self._hearer.hear(Pushing(parameters, name, options))
        if pushed is None:
            raise RuntimeError(f"job {visible(self.job_id)}: this run is over, so it can push nothing any more")
        return pushed

    # Most handlers look at few of these, so they are made when asked for.

    @cached_property
    def queued_at(self) -> datetime:
        """When the job was pushed, by the server's clock."""
        return datetime.fromtimestamp(self._queued_ms / 1000, UTC)

    @cached_property
    def scheduled_for(self) -> datetime | None:
        """The slot that this job was pushed for, by a schedule; None for any other job. Retries keep it."""
        slot = self._scheduled_ms
        return None if slot is None else datetime.fromtimestamp(slot / 1000, UTC)

    @cached_property
    def next_scheduled_at(self) -> datetime | None:
        """The slot after that. A run that is late by so much can leave its work to the next one."""
        slot = self._next_scheduled_ms
        return None if slot is None else datetime.fromtimestamp(slot / 1000, UTC)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """What the producer sent along."""
        return self._read_headers()

    @cached_property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines begin with the job's id and name.

        Its records carry job_id, job_name, attempt and queue beside the caller's own `extra`.
        """
        fields = {
            "job_id": self.job_id,
            "job_name": self.job_name,
            "attempt": self.attempt,
            "queue": self.queue_name,
        }
        return _JobLogger(logging.getLogger("redisjobs.job"), fields)

    def __getstate__(self) -> dict[str, Any]:
        """For a handler in another process: all of it, the headers read."""
        left = {"_read_headers": None, "_state": None, "_has_state": False, "_hearer": None}
        return {**vars(self), "headers": self.headers, **left}


_current: ContextVar[JobContext[Any] | None] = ContextVar("redisjobs.current_job", default=None)


def current_job() -> JobContext[Any]:
    """Return the context of the job that runs here, for code that a handler calls without handing it on.

    It is known in async handlers and the tasks they start, in handlers that run in threads, and in those that run
    in a process of their own. A thread that a handler starts itself knows it where it runs in a copy of the
    handler's `contextvars`, as by `asyncio.to_thread`.

    Raises:
        LookupError: No job runs here.
    """
    context = _current.get()
    if context is None:
        raise LookupError(
            "no job runs here: current_job() is for handlers and what they call; a thread of your own has to be "
            "started with contextvars.copy_context().run"
        )
    return context


set_current_job = _current.set
"""Let `current_job` return it, in the current context of `contextvars`. Each job pays for it, so no function."""


def keep_only_slot(context: JobContext[Any], queues: Sequence[str]) -> None:
    """Note that the job has the only slot of its worker, which runs jobs of these queues."""
    context._only_slot_of = queues


def keeper_of_only_slot(queue: str) -> str | None:
    """The id of the job that runs here, if it has the only slot of a worker of this queue; else None."""
    context = _current.get()
    return context.job_id if context is not None and queue in context._only_slot_of else None


def message_sink_of(context: JobContext[Any]) -> MessageSink | None:
    """Who hears what a handler says to its context; None: nobody."""
    return context._hearer


def set_message_sink(context: JobContext[Any], sink: MessageSink) -> None:
    """Let somebody hear it: where the context was taken to another process."""
    context._hearer = sink


class _JobLogger(logging.LoggerAdapter["logging.Logger"]):
    """Adds to what the caller gives as `extra`, which the adapter of Python before 3.13 would replace."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line that begins with the job's id and name, for formats that show the message alone."""
        if not self.isEnabledFor(level):
            return
        about = self.extra or {}
        job = f"job {visible(str(about['job_id']))} ({visible(str(about['job_name']))}): "
        first = job.replace("%", "%%") if args else job  # without arguments logging formats nothing
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the line is the caller's
        super().log(level, f"{first}{msg}", *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
