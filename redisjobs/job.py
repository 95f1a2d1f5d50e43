"""What a job is: its parameters, its name, its handler, and what the handler is told of it."""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, NotRequired, get_origin, get_type_hints, is_typeddict

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from redisjobs.arguments import is_text
from redisjobs.errors import RegistrationError
from redisjobs.retry import RetryPolicy
from redisjobs.roundtrip import RoundTrip

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

P = TypeVar("P")
AppState = TypeVar("AppState", default=None)

logger = logging.getLogger("redisjobs")


class Priority(StrEnum):
    """Which jobs go first: strictly high before normal before low, first in first out inside."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class State(StrEnum):
    """Where a job is in its life. The last two are only known of jobs that the queue keeps: see `Retention`."""

    DELAYED = "delayed"
    READY = "ready"
    RUNNING = "running"
    DEAD = "dead"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


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

    def __post_init__(self) -> None:
        if not is_text(self.name, r"[^\s\x00-\x1f]{1,200}"):
            raise RegistrationError(f"{self.name!r} can't name a job: give 1 to 200 characters, no spaces")
        if not _may_be_type(self.parameters):
            raise RegistrationError(
                f"JobName({self.name!r}, ...): {_shown(self.parameters)} is no type; give a dataclass, a pydantic "
                "model or a TypedDict"
            )

    @cached_property
    def adapter(self) -> TypeAdapter[P]:
        """How pydantic dumps and validates the parameters.

        Raises:
            RegistrationError: pydantic has no schema for the type.
        """
        return adapter_for(self.parameters)

    @cached_property
    def round_trip(self) -> RoundTrip:
        """What of the parameters their type leaves open."""
        return RoundTrip(self.adapter.core_schema)


def _may_be_type(parameters: object) -> bool:
    """Whether something is a type, or a form of one such as `list[int]`."""
    forms = ("typing", "types", "typing_extensions")
    return isinstance(parameters, type) or parameters is None or type(parameters).__module__ in forms


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def adapter_for(parameters: Any) -> TypeAdapter[Any]:
    """Pydantic's adapter for a parameter type.

    Raises:
        RegistrationError: pydantic has no schema for the type.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_readable(parameters))
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise RegistrationError(f"{parameters!r} can't be a job's parameters: {error}") from error
    if not adapter.pydantic_complete:
        raise RegistrationError(f"{parameters!r} can't be a job's parameters: it names a type that isn't there")
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
    """

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
        self._state, self._has_state = state, True
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
        left = {"_read_headers": None, "_state": None, "_has_state": False}
        return {**vars(self), "headers": self.headers, **left}


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
        in_process: Whether it runs in a process of its own.
        function: The handler itself, as that process finds it.
        by_name: Whether that takes its parameters by name.
        limit: How many of its jobs may run at once, or start in a time, as its code declares; '' for no limit.
    """

    name: JobName[P]
    call: Callable[[P, JobContext], Any]
    is_async: bool
    retry: RetryPolicy
    timeout: float | None = None
    in_process: bool = False
    function: Any = None
    by_name: bool = False
    limit: str = ""
