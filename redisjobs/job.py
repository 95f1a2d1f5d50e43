"""What a job is: its parameters, its name, its handler, and what the handler is told of it."""

import logging
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    NotRequired,
    Protocol,
    Unpack,
    get_origin,
    get_type_hints,
    is_typeddict,
    overload,
)

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from redisjobs.arguments import is_text
from redisjobs.durations import seconds
from redisjobs.errors import RegistrationError
from redisjobs.progress import (
    AsyncTracked,
    Extension,
    Hearer,
    Item,
    Progress,
    Pushing,
    counted,
    note_of,
    progress_of,
    total_of,
    tracked,
)
from redisjobs.retry import RetryPolicy
from redisjobs.roundtrip import RoundTrip
from redisjobs.visible import visible

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

P = TypeVar("P")
TypedMapping = TypeVar("TypedMapping", bound=Mapping[str, object])
AppState = TypeVar("AppState", default=None)

Duration = float | timedelta
"""Seconds, or a timedelta."""

logger = logging.getLogger("redisjobs")


class Priority(StrEnum):
    """Which jobs go first: strictly high before normal before low, first in first out inside."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class UniqueUntil(StrEnum):
    """What of its job a unique key is held until."""

    START = "start"
    END = "end"


class OnConflict(StrEnum):
    """What becomes of a push whose unique key another job holds."""

    SKIP = "skip"
    REPLACE = "replace"
    RAISE = "raise"


class State(StrEnum):
    """Where a job is in its life. The last two are only known of jobs that the queue keeps: see `Retention`."""

    DELAYED = "delayed"
    READY = "ready"
    RUNNING = "running"
    DEAD = "dead"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Named(Protocol):
    """Parameters whose type says the name of its job."""

    job_name: ClassVar[str]


class PushOptions(TypedDict, total=False):
    """How a job is pushed; every one may be left out.

    Attributes:
        delay: Seconds or a timedelta from now, by the server's clock, before it may run.
        at: The earliest time it may run: an aware datetime. Not with delay.
        priority: HIGH, NORMAL (the default) or LOW, or the same in words: "high".
        job_id: One job at a time may have it: while a job of that id is on the queue, delayed or dead, another is
            not added. Once that has ended or was cancelled, a new push makes a new job. Defaults to a new id.
            Whichever it is, a push that is tried again after a lost reply adds nothing.
        unique: A key that one job at a time may hold, from its push until it is done, dead or cancelled; a push
            while another job holds it adds nothing; its handle has that job's id.
        unique_for: Hold the unique key for just this long from the push instead, whatever becomes of the job.
        unique_until: `"start"`: hold the unique key only while the job waits. A push that comes once a worker has
            it adds a job, which holds the key from then on. Not with unique_for. Defaults to `"end"`.
        on_conflict: What becomes of a push while another job holds its unique key. `"skip"`, the default: it adds
            nothing. `"replace"`: if that job waits, delayed or ready, it becomes what is pushed, under its own id:
            see the guide on unique jobs; if it runs or has ended, nothing is added. `"raise"`: UniqueConflict.
        headers: Strings to strings that go with the job, such as a trace context.
        expires_in: A job not started within this time becomes a dead letter, reason `expired`. One that was
            started never does, however often it is tried again, also after its worker died or stopped.
        keep_result: For how long what its handler returns is kept, for `queue.result`; 0: not at all. Defaults to
            what is said where the handler is registered.
        limit_key: Under which key the job is counted, where its name has a limit: text of 1 to 200 characters, or
            a whole number. Defaults to what the `limit_key` of its handler says, if that is here.
    """

    delay: Duration | None
    at: datetime | None
    priority: Priority | Literal["high", "normal", "low"] | None
    job_id: str | None
    unique: str | None
    unique_for: Duration | None
    unique_until: UniqueUntil | Literal["start", "end"] | None
    on_conflict: OnConflict | Literal["skip", "replace", "raise"] | None
    headers: Mapping[str, str] | None
    expires_in: Duration | None
    keep_result: Duration | None
    limit_key: str | int | None


@dataclass(slots=True, unsafe_hash=True)  # one a push; to freeze it costs as much again
class PushedJob:
    """What a push came to; `str` of it is the job's id. Both faces of a queue make a handle of it.

    Attributes:
        id: The job's id; where another job holds the unique key, that job's.
        name: The name that was pushed.
        added: Whether the push added a job; False if the id is on the queue, or the unique key is held. None if it
            is not known yet: a job that another one pushes is added as that ends.
        replaced: Whether that other job waited, and is by now what was pushed: see `on_conflict`.
    """

    id: str
    name: str
    added: bool | None
    replaced: bool

    def __str__(self) -> str:
        return self.id


def checked_queue_name(name: str) -> str:
    """A queue's name, if it can be one: it stands in braces inside each of the queue's keys.

    Raises:
        ValueError: It can't.
    """
    if not is_text(name, r"[^{}\s\x00-\x1f]{1,200}"):
        raise ValueError(f"{name!r} can't name a queue: give 1 to 200 characters, no braces or spaces")
    return name


@dataclass(frozen=True)
class JobName(Generic[P]):
    """A job's name with the type of its parameters, so that one type can serve many names.

    Args:
        name: What goes on the wire: no spaces or control characters.
        parameters: A dataclass, a pydantic model or a TypedDict.
    """

    name: str
    parameters: type[P]
    what: ClassVar[str] = "parameters"
    is_result: ClassVar[bool] = False
    wanted: ClassVar[str] = "a dataclass, a pydantic model or a TypedDict"

    def __post_init__(self) -> None:
        if not is_text(self.name, r"[^\s\x00-\x1f]{1,200}"):
            raise RegistrationError(f"{self.name!r} can't name a job: give 1 to 200 characters, no spaces")
        if not _may_be_type(self.parameters):
            told = f"{type(self).__name__}({self.name!r}, ...): {_shown(self.parameters)} is no type"
            raise RegistrationError(f"{told}; give {self.wanted}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Taken to another process as it was made."""
        return type(self), (self.name, self.parameters)

    @cached_property
    def adapter(self) -> TypeAdapter[P]:
        """How pydantic dumps and validates the parameters.

        Raises:
            RegistrationError: pydantic has no schema for the type.
        """
        return adapter_for(self.parameters, "result" if self.is_result else "parameters")

    @cached_property
    def round_trip(self) -> RoundTrip:
        """What of the parameters their type leaves open."""
        return RoundTrip(self.adapter.core_schema)


class ReturnType(JobName[P]):
    """What the handler of a job returns, where that is kept: written and read by its type, as parameters are."""

    what: ClassVar[str] = "the result"
    is_result: ClassVar[bool] = True
    wanted: ClassVar[str] = "what the handler returns, as int or a dataclass"


def _may_be_type(parameters: object) -> bool:
    """Whether something is a type, or a form of one such as `list[int]`."""
    forms = ("typing", "types", "typing_extensions")
    return isinstance(parameters, type) or parameters is None or type(parameters).__module__ in forms


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def adapter_for(parameters: Any, what: str = "parameters") -> TypeAdapter[Any]:
    """Pydantic's adapter for the type of a job's parameters, or of its result.

    Raises:
        RegistrationError: pydantic has no schema for the type.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_readable(parameters))
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise RegistrationError(f"{parameters!r} can't be a job's {what}: {error}") from error
    if not adapter.pydantic_complete:
        raise RegistrationError(f"{parameters!r} can't be a job's {what}: it names a type that isn't there")
    return adapter


def _readable(parameters: Any) -> Any:
    """A type that pydantic reads: before Python 3.12 it refuses `typing.TypedDict`, for want of a detail."""
    if sys.version_info >= (3, 12) or not is_typeddict(parameters):
        return parameters
    hints = get_type_hints(parameters, include_extras=True)
    optional = parameters.__optional_keys__
    keys = {
        key: NotRequired[hint] if key in optional and get_origin(hint) is not NotRequired else hint
        for key, hint in hints.items()
    }
    return TypedDict(parameters.__name__, keys)  # type: ignore[operator]


def name_of(parameters: type[P] | JobName[P]) -> JobName[P]:
    """The job name of a parameter type that says its own in `job_name`.

    Raises:
        RegistrationError: It does not say one, or has that of another.
    """
    if isinstance(parameters, JobName):
        return parameters
    if not _may_be_type(parameters):
        raise RegistrationError(
            f"{_shown(parameters)} is no type: give a dataclass, a pydantic model or a TypedDict, or a JobName"
        )
    name = getattr(parameters, "job_name", None)
    if not isinstance(name, str):
        given = getattr(parameters, "__name__", repr(parameters))
        raise RegistrationError(
            f"{given} has no job name: give the class a `job_name: ClassVar[str]`, or use JobName('...', {given})"
        )
    if why := borrowed(parameters):
        raise RegistrationError(why)
    return JobName(name, parameters)


def borrowed(kind: type[Any]) -> str:
    """What is wrong with a type's job name if it inherits that of another parameter type; '' for nothing.

    The handler of that name takes the base, and what the subclass adds would be lost on the way.
    """
    if not isinstance(kind, type) or "job_name" in vars(kind):
        return ""
    generic = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin")  # Box, of a Box[int]
    for base in kind.__mro__[1:]:
        has_fields = vars(base).keys() & {"__dataclass_fields__", "__pydantic_core_schema__"}  # so it is no mixin
        if has_fields and base is not generic and (name := getattr(base, "job_name", None)):
            its, other = kind.__name__, base.__name__
            return (
                f"{name}: a {its} would arrive as a {other}, which has that job name; push a {other}, give {its} "
                f"a job_name and a handler of its own, or use JobName('...', {its})"
            )
    return ""


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
        hearer: Hearer | None = None,
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
        self._hearer = hearer
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
    def push(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> PushedJob: ...

    def push(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> PushedJob:
        """Push a job to this queue as this one ends: both happen, or neither does.

        It costs no round trip, and needs no `await`: the job is added by the step that ends this one, once the
        handler has returned. If it raises, or its worker dies, nothing is pushed, and the next run pushes anew. A
        job whose id or unique key is another's by then is not added; a unique key of this job is free for it.

        Args:
            parameters: As for `JobQueue.push`.
            name: As for `JobQueue.push`.
            options: As for `JobQueue.push`. Without a `job_id` the id is made of the id of this job, of how many
                it has pushed before, and of the name, so that each run makes the same.

        Returns:
            The job, its `added` None, as that is not known yet.

        Raises:
            UnknownJob: No handler here has that name.
            EncodeError: The parameters don't fit their declared type, or are too large.
            ValueError: An option makes no sense, as `on_conflict="raise"`, for it is pushed only when the handler
                has returned; or these are more than 500 jobs, or 4 MB.
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
        """A logger whose records carry job_id, job_name, attempt and queue beside the caller's own `extra`."""
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


def hearer_of(context: JobContext[Any]) -> Hearer | None:
    """Who hears what a handler says to its context; None: nobody."""
    return context._hearer


def set_hearer(context: JobContext[Any], hearer: Hearer) -> None:
    """Let somebody hear it: where the context was taken to another process."""
    context._hearer = hearer


class _JobLogger(logging.LoggerAdapter["logging.Logger"]):
    """Adds to what the caller gives as `extra`, which the adapter of Python before 3.13 would replace."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


@dataclass(frozen=True)
class JobDefinition(Generic[P]):
    """A job name with its handler: what a worker needs to run such jobs.

    Attributes:
        name: Name and parameter type.
        call: Takes (parameters, context); what it returns may be awaitable.
        is_async: Whether `call` is a coroutine function; a sync one runs in a thread.
        retry: When a failed run is tried again.
        timeout: Seconds a run may take; None: no limit.
        stalled_after: Seconds a run may go on without reporting progress; None: no limit.
        keep_ms: For how long what it returns is kept, in ms, where the push does not say; 0: not at all.
        strict_result: Whether a job fails whose result can't be kept.
        in_process: Whether it runs in a process of its own.
        function: The handler itself, as that process finds it.
        by_name: Whether that takes its parameters by name.
        returned: The type that it returns, by its annotation.
        limit: How many of its jobs may run at once, or start in a time, as its code declares; '' for no limit.
    """

    name: JobName[P]
    call: Callable[[P, JobContext], Any]
    is_async: bool
    retry: RetryPolicy
    timeout: float | None = None
    stalled_after: float | None = None
    keep_ms: int = 0
    strict_result: bool = False
    in_process: bool = False
    function: Any = None
    by_name: bool = False
    limit: str = ""
    returned: Any = Any

    @cached_property
    def returns(self) -> ReturnType[Any]:
        """What the handler returns, by its annotation.

        Raises:
            RegistrationError: pydantic has no schema for the type.
        """
        kind = ReturnType(self.name.name, self.returned)
        _ = kind.round_trip
        return kind
