"""The context of a running job: what the handler can read of its job, report and push."""

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
from redisjobs.model.chunks import new_chunk
from redisjobs.model.job import AppState, JobName, Named, PushedJob, TypedMapping
from redisjobs.model.options import PushOptions
from redisjobs.model.progress import (
    AsyncTracked,
    Extension,
    Item,
    MessageSink,
    Progress,
    PushRequest,
    counted,
    note_of,
    progress_of,
    total_of,
    tracked,
)
from redisjobs.model.step_verbs import StepVerbs
from redisjobs.model.transitions import NewJob

P = TypeVar("P")


class JobContext(StepVerbs, Generic[AppState]):
    """The context of the job that a handler runs.

    If a handler takes `JobContext[Resources]`, its `context.state` has the type `Resources`.

    Attributes:
        job_id: The job's id, the same for all its attempts. An idempotent handler can store it.
        job_name: The job's name.
        queue_name: The queue that the job came from.
        attempt: The number of this attempt, from 1. Failed runs count; runs that lost their worker don't.
        deliveries: How often the job was delivered since its last outcome, lost workers included.
        worker_id: The worker that runs the job.
        keeps_result: Whether the handler's result is kept.
        cancelled: Whether the worker abandoned this run after a timeout, a cancel, a shutdown or a lost lease. It
            then interrupts an async handler. A sync handler keeps running in its thread and can check this; its
            outcome is ignored.
    """

    # Class attributes, because each job makes a context and few contexts have other values.
    cancelled: bool = False
    _has_state: bool = True
    _progress: Progress | None = None
    _trace: str = ""  # the `traceparent` of the last run; once this one has a span, its own
    _only_slot_of: Sequence[str] = ()  # the queues of its worker, if the worker has only one slot

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
        self._sink = sink

    @property
    def state(self) -> AppState:
        """The application's `queue.state`, for example a database pool or an HTTP client.

        Raises:
            AttributeError: The handler runs in a separate process. The state stays in the worker's process.
        """
        if not self._has_state:
            raise AttributeError(
                f'{self.job_name} runs in a process of its own, by run_in="process": queue.state stays with the '
                "worker; make what the handler needs in its module"
            )
        return self._state

    # Calls of the handler

    @overload
    def progress(self, fraction: float, /, note: str = ...) -> None: ...

    @overload
    def progress(self, done: float, total: float | None, /, note: str = ...) -> None: ...

    @overload
    def progress(self, note: str) -> None: ...

    def progress(self, *said: float | str | None, note: str | None = None) -> None:
        """Report progress: `progress(0.4)`, `progress(12, 30)`, each with or without a note, or only a note.

        The call takes microseconds and never blocks. The worker publishes the last report within half a second,
        at most 4 times a second. Any thread of the handler may call it, even in a separate process. Once the run
        is over or abandoned, it does nothing.

        Args:
            said: A fraction from 0 to 1; or the done and the total amount, in your own unit. The total may be
                None if it is not known, and more than the total may be done.
            note: A line of text; 200 characters are kept. A note alone keeps the numbers of the last report.
                Numbers alone remove the note.

        Raises:
            ValueError: A number is negative, too large or not a number, or the note is not text.
            TypeError: Nothing was given, or too much.
        """
        _report(self, progress_of(said, note, self._progress))

    @overload
    def track(self, items: Iterable[Item], total: float | None = None, note: str = "") -> Iterator[Item]: ...

    @overload
    def track(
        self, items: AsyncIterable[Item], total: float | None = None, note: str = ""
    ) -> AsyncIterator[Item]: ...

    def track(
        self, items: Iterable[Item] | AsyncIterable[Item], total: float | None = None, note: str = ""
    ) -> Iterator[Item] | AsyncIterator[Item]:
        """Return an iterator over the items that reports the progress of your loop; see `progress`.

        An item counts as done when the loop asks for the next one.

        Args:
            items: An iterable, or an async iterable.
            total: How many items there are. Defaults to their `len()`, if they have one.
            note: The note of each report.

        Raises:
            ValueError: The total is wrong, or the note is not text.
            TypeError: The items are not iterable.
        """
        many, text = total_of(items, total), note_of(note)

        def report(done: int) -> None:
            _report(self, counted(done, many, text))

        if isinstance(items, Iterable):
            return tracked(items, report)
        if isinstance(items, AsyncIterable):
            return AsyncTracked(items, report)
        raise TypeError(f"track({items!r}): give it what `for` or `async for` can go over")

    def emit(self, chunk: Any) -> None:
        """Emit a part of what the job makes, as tokens of a model or lines of a log; see `JobQueue.stream`.

        Readers get the chunks in order, a quarter of a second later at most. The call takes microseconds. Any
        thread of the handler may call it, even in a separate process; such a thread waits while the worker has no
        room. Once the run is over or abandoned, it does nothing.

        A run that starts over emits again, under the next run number. A run that finds saved steps emits nothing
        until it has come to the last one, or calls one that is not saved: readers have that already.

        Args:
            chunk: Bytes, or plain JSON; 256 KB at most.

        Raises:
            EncodeError: The chunk is no plain JSON, or too large.
            ChunksFull: The server has not taken the last 10,000 chunks or 4 MB of this run, and the caller is an
                async handler, which must not block.
        """
        message = new_chunk(chunk)
        if self._sink is not None:
            self._sink.handle(message)

    def extend(self, duration: float | timedelta) -> None:
        """Let this run take longer: its `timeout` ends no earlier than this long from now.

        Without a timeout, or once the run is over or abandoned, this does nothing. It is no progress report, so it
        does not affect `stalled_after`. A wrong duration is a `ValueError`.
        """
        extension = Extension(seconds(duration, "duration"))
        if self._sink is not None:
            self._sink.handle(extension)

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
        """Push a follow-up job to this queue when this job ends: both happen, or neither does.

        It needs no `await` and no round trip: after the handler has returned, one step ends this job and adds the
        other. If the handler raises, or its worker dies, nothing is pushed, and the next run pushes again. The job
        is not added if another job has its id or its unique key by then. It may have the unique key of this job.

        The arguments are those of `JobQueue.push`, or a job that `prepare` of the queue or of a job function made:
        `context.push(resize.prepare("a.png", width=64))`. Without a `job_id`, the id is made of this job's id, the
        number of earlier pushes in this run, and the name. So each run makes the same id.

        Returns:
            A handle of the job. Its `added` is None, because it is not known yet.

        Raises:
            EncodeError: See `JobQueue.push`, also for UnknownJob and TypeError.
            ValueError: An option is wrong, for example `on_conflict="raise"`. Or the id is that of this job, or
                another queue prepared the job. Or this run pushes more than 500 jobs, or 4 MB.
            RuntimeError: The run is over or abandoned.
        """
        pushed: PushedJob | None = None
        if self._sink is not None:
            pushed = self._sink.handle(PushRequest(parameters, name, options))
        if pushed is None:
            raise RuntimeError(f"job {visible(self.job_id)}: this run is over, so it can't push any more")
        return pushed

    # Cached properties, because most handlers read few of them.

    @cached_property
    def queued_at(self) -> datetime:
        """When the job was pushed, by the server's clock."""
        return datetime.fromtimestamp(self._queued_ms / 1000, UTC)

    @cached_property
    def scheduled_for(self) -> datetime | None:
        """The schedule's slot for which this job was pushed; None for any other job. Retries keep it."""
        slot = self._scheduled_ms
        return None if slot is None else datetime.fromtimestamp(slot / 1000, UTC)

    @cached_property
    def next_scheduled_at(self) -> datetime | None:
        """The schedule's next slot. A run that begins after it can leave its work to the job of that slot."""
        slot = self._next_scheduled_ms
        return None if slot is None else datetime.fromtimestamp(slot / 1000, UTC)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers of the job's push."""
        return self._read_headers()

    @cached_property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines begin with the job's id and name.

        Its records also have job_id, job_name, attempt and queue, besides the caller's `extra`.
        """
        fields = {
            "job_id": self.job_id,
            "job_name": self.job_name,
            "attempt": self.attempt,
            "queue": self.queue_name,
        }
        return _JobLogger(logging.getLogger("redisjobs.job"), fields)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the context for a handler in another process, with its headers but without its state."""
        left = {"_read_headers": None, "_state": None, "_has_state": False, "_sink": None}
        return {**vars(self), "headers": self.headers, **left}


def _report(context: JobContext[Any], progress: Progress) -> None:
    context._progress = progress
    if context._sink is not None:
        context._sink.handle(progress)


_current: ContextVar[JobContext[Any] | None] = ContextVar("redisjobs.current_job", default=None)


def current_job() -> JobContext[Any]:
    """Return the context of the job that runs here, for code that has not got it as an argument.

    It works in async handlers and the tasks they start, and in handlers in threads and separate processes. If a
    handler starts a thread, it works there in a copy of the handler's `contextvars`: `asyncio.to_thread` makes
    one.

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
"""Set the context that `current_job` returns here. It is no function of its own, to make each job faster."""


def keep_only_slot(context: JobContext[Any], queues: Sequence[str]) -> None:
    """Note that the job has the only slot of its worker, which works on these queues."""
    context._only_slot_of = queues


def keeper_of_only_slot(queue: str) -> str | None:
    """Return the id of the job that runs here if it has the only slot of a worker of this queue, else None."""
    context = _current.get()
    return context.job_id if context is not None and queue in context._only_slot_of else None


def note_transaction(is_open: Callable[[], bool]) -> None:
    """Note, if a job runs here, that it has pushed jobs in a transaction; see `StepVerbs`."""
    context = _current.get()
    if context is not None:
        context._transactions = (*context._transactions, is_open)


def message_sink_of(context: JobContext[Any]) -> MessageSink | None:
    """Return the sink of a handler's messages, or None."""
    return context._sink


def set_message_sink(context: JobContext[Any], sink: MessageSink) -> None:
    """Set the sink of a handler's messages in a context that came from another process."""
    context._sink = sink


class _JobLogger(logging.LoggerAdapter["logging.Logger"]):
    """An adapter that adds to the caller's `extra`; Python's own adapter replaces it before Python 3.13."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line that begins with the job's id and name, for formats that show only the message."""
        if not self.isEnabledFor(level):
            return
        about = self.extra or {}
        job = f"job {visible(str(about['job_id']))} ({visible(str(about['job_name']))}): "
        first = job.replace("%", "%%") if args else job  # without arguments logging does not format the line
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # show the caller's line
        super().log(level, f"{first}{msg}", *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
