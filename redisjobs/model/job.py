"""What a job is: its name, the type of its parameters, its handler, and the handle of its push."""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import (
    Any,
    ClassVar,
    Generic,
    NotRequired,
    Protocol,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from redisjobs.base.arguments import is_text
from redisjobs.errors import RegistrationError
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.roundtrip import RoundTrip

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
    """A job's priority: strictly high before normal before low, first in, first out within each."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class UniqueUntil(StrEnum):
    """Until when a job holds its unique key."""

    START = "start"
    END = "end"


class OnConflict(StrEnum):
    """What a push does while another job holds its unique key."""

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


class WhyWaiting(StrEnum):
    """What keeps a job from starting, beside its place in line and its due time."""

    HELD = "held"
    """You held this job."""
    PAUSED = "paused"
    """The queue is paused."""
    NAME_PAUSED = "name paused"
    """Jobs of this name are paused."""
    LIMIT = "limit"
    """It waits in line for the limit of its name."""
    NO_WORKER = "no worker"
    """No worker of the queue is alive."""
    NO_HANDLER = "no handler"
    """The workers that looked at it have no handler of its name; they look again."""
    LAST_DELIVERY = "last delivery"
    """Its workers died, so it waits for a worker that runs nothing else."""


class Named(Protocol):
    """Parameters whose type has the name of its job."""

    job_name: ClassVar[str]


@dataclass(slots=True, unsafe_hash=True)  # one for each push; a frozen one costs twice as much
class PushedJob:
    """A job that was pushed; `str` of it is the job's id. The handles of both queues derive from it.

    Attributes:
        id: The job's id; if another job holds the unique key, that job's.
        name: The name that was pushed.
        added: Whether the push added a job; False if the id is on the queue, or the unique key is held. None if it
            is not known yet: a job that another job pushes is added when that one ends.
        replaced: Whether the job that holds the key waited, and is now what was pushed: see `on_conflict`.
        is_other: Whether it is that job as it was, which may have another name.
    """

    id: str
    name: str
    added: bool | None
    replaced: bool
    is_other: bool = field(default=False, kw_only=True, repr=False, compare=False)

    def __str__(self) -> str:
        return self.id


def checked_queue_name(name: str) -> str:
    """Return a queue's name, or raise a ValueError. It stands in braces in each of the queue's keys."""
    if not is_text(name, r"[^{}\s\x00-\x1f]{1,200}"):
        raise ValueError(f"{name!r} can't name a queue: give 1 to 200 characters, no braces or spaces")
    return name


_NAME = r"[^\s\x00-\x1f]{1,200}"


@dataclass(frozen=True)
class JobName(Generic[P]):
    """A job's name with the type of its parameters, so that one type can serve many names.

    Args:
        name: The name as it is stored: no spaces or control characters.
        parameters: A dataclass, a pydantic model or a TypedDict.
    """

    name: str
    parameters: type[P]
    what: ClassVar[str] = "parameters"
    is_result: ClassVar[bool] = False
    wanted: ClassVar[str] = "a dataclass, a pydantic model or a TypedDict"

    def __post_init__(self) -> None:
        if not is_text(self.name, _NAME):
            raise RegistrationError(f"{self.name!r} can't name a job: give 1 to 200 characters, no spaces")
        if not _may_be_type(self.parameters):
            told = f"{type(self).__name__}({self.name!r}, ...): {_shown(self.parameters)} is not a type"
            raise RegistrationError(f"{told}; give {self.wanted}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as it was made."""
        return type(self), (self.name, self.parameters)

    @cached_property
    def adapter(self) -> TypeAdapter[P]:
        """Pydantic's adapter, which dumps and validates the parameters; see `adapter_for`."""
        return adapter_for(self.parameters, "result" if self.is_result else "parameters")

    @cached_property
    def round_trip(self) -> RoundTrip:
        """The check of what the type of the parameters leaves open."""
        return RoundTrip(self.adapter.core_schema)


def checked_name(name: str | JobName[Any]) -> str:
    """Return a job name as text; raise a ValueError if it can't be one."""
    text = name.name if isinstance(name, JobName) else name
    if not is_text(text, _NAME):
        raise ValueError(f"name={name!r}: give the name of a job, 1 to 200 characters, no spaces")
    return text


class ReturnType(JobName[P]):
    """The return type of a handler whose result is kept: that is written and read by it, as parameters are."""

    what: ClassVar[str] = "the result"
    is_result: ClassVar[bool] = True
    wanted: ClassVar[str] = "what the handler returns, as int or a dataclass"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a process that waits for a job knows of its result."""

    returns: ReturnType[Any] | None = None  # None: plain JSON
    is_certain: bool = True  # it is of that type; else it may be the result of a job of another name
    unkept_by: str = ""  # the name of the job, if its handler here keeps no result; another process may


def _may_be_type(parameters: object) -> bool:
    """Return whether a value is a type, or a form of one such as `list[int]`."""
    forms = ("typing", "types", "typing_extensions")
    return isinstance(parameters, type) or parameters is None or type(parameters).__module__ in forms


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def adapter_for(parameters: Any, what: str = "parameters") -> TypeAdapter[Any]:
    """Return pydantic's adapter for the type of a job's parameters, or of its result.

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
    """Return a type that pydantic reads: before Python 3.12 it refuses `typing.TypedDict`."""
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
    """Return the job name of a parameter type that has a `job_name`.

    Raises:
        RegistrationError: It has none, or inherits that of another type.
    """
    if isinstance(parameters, JobName):
        return parameters
    if not _may_be_type(parameters):
        raise RegistrationError(
            f"{_shown(parameters)} is not a type: give a dataclass, a pydantic model or a TypedDict, or a JobName"
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
    """Return what is wrong if a type inherits its job name from another parameter type; '' for nothing.

    The handler of that name takes the base, so what the subclass adds would be lost.
    """
    if not isinstance(kind, type) or "job_name" in vars(kind):
        return ""
    generic = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin")  # Box, of a Box[int]
    for base in kind.__mro__[1:]:
        has_fields = vars(base).keys() & {"__dataclass_fields__", "__pydantic_core_schema__"}  # it is not a mixin
        if has_fields and base is not generic and (name := getattr(base, "job_name", None)):
            its, other = kind.__name__, base.__name__
            return (
                f"{name}: a {its} would arrive as a {other}, which has that job name; push a {other}, give {its} "
                f"a job_name and a handler of its own, or use JobName('...', {its})"
            )
    return ""


@dataclass(frozen=True)
class JobDefinition(Generic[P]):
    """A job name with its handler: what a worker needs to run such jobs."""

    name: JobName[P]
    call: Callable[[P, Any], Any]  # takes (parameters, context); what it returns may be awaitable
    is_async: bool  # `call` is a coroutine function; a sync one runs in a thread
    retry: RetryPolicy
    timeout: float | None = None  # seconds
    stalled_after: float | None = None  # seconds without a progress report
    keep_ms: int = 0  # for how long its result is kept, if the push does not say it; 0: not at all
    strict_result: bool = False  # a job fails whose result can't be kept
    in_process: bool = False  # it runs in a process of its own
    function: Any = None  # the handler itself, as that process finds it
    by_name: bool = False  # that takes its parameters by name
    limit: str = ""  # the limit that its code declares, as `Limit.text`
    returned: Callable[[], Any] = lambda: Any  # gives its return type, by its annotation
    limit_key: Callable[[P], str | int] | None = None  # returns the key that a job counts under
    priority: Priority | None = None  # of its jobs, if the push does not say one
    unique: Callable[[P], str | None] | None = None  # returns their unique key, if the push does not say one

    @cached_property
    def returns(self) -> ReturnType[Any]:
        """The handler's return type, by its annotation.

        Raises:
            RegistrationError: The annotation can't be read, or pydantic has no schema for the type.
        """
        kind = ReturnType(self.name.name, self.returned())
        _ = kind.round_trip
        return kind
