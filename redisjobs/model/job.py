"""The parts of a job: its name, the type of its parameters, its handler, and the handle that a push returns."""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, StrEnum, auto
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
    """A job's priority: high strictly before normal before low; within each, first in, first out."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class UniqueUntil(StrEnum):
    """How long a job holds its unique key: until it starts, or until it ends."""

    START = "start"
    END = "end"


class OnConflict(StrEnum):
    """What a push does if another job holds its unique key."""

    SKIP = "skip"
    REPLACE = "replace"
    RAISE = "raise"


class State(StrEnum):
    """The state of a job. Only jobs that the queue keeps are in the last two states: see `Retention`."""

    RUNNING = "running"
    READY = "ready"
    DELAYED = "delayed"
    SUSPENDED = "suspended"
    DEAD = "dead"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Phase(Enum):
    """What the states of jobs have in common, and so what can be done with the jobs."""

    RUNS = auto()
    """A worker has it. It can be cancelled."""
    WAITS = auto()
    """No worker has it, and it runs later. It can be cancelled and held."""
    DIED = auto()
    """It failed for good. It can be requeued and deleted."""
    ENDED = auto()
    """It has ended, and the queue keeps it, without its steps. It can be requeued and deleted."""


PHASES = {
    State.RUNNING: Phase.RUNS,
    State.READY: Phase.WAITS,
    State.DELAYED: Phase.WAITS,
    State.SUSPENDED: Phase.WAITS,
    State.DEAD: Phase.DIED,
    State.COMPLETED: Phase.ENDED,
    State.CANCELLED: Phase.ENDED,
}
"""The phase of each state, in the order in which lists have the states."""

WAITING = tuple(state for state, phase in PHASES.items() if phase is Phase.WAITS)
ENDED = tuple(state for state, phase in PHASES.items() if phase is Phase.ENDED)

ASIDE = tuple(state for state, phase in PHASES.items() if phase in (Phase.DIED, Phase.ENDED))
"""The states of jobs that don't run again unless they are requeued."""

CANCELLABLE = tuple(state for state in PHASES if state not in ASIDE)
"""The states of jobs that can be cancelled."""


class WhyWaiting(StrEnum):
    """Why a job can't start, besides its place in line and its due time."""

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
    """The workers that claimed it have no handler for its name. They try again."""
    LAST_DELIVERY = "last delivery"
    """Its workers died, so it waits for a worker that runs no other job."""


class Named(Protocol):
    """Parameters whose type has a job name."""

    job_name: ClassVar[str]


@dataclass(slots=True, unsafe_hash=True)  # one for each push; a frozen one costs twice as much
class PushedJob:
    """The handle of a pushed job; `str` returns the job's id. Both queue classes derive their handles from it.

    Attributes:
        id: The job's id. If another job holds the unique key, the id of that job.
        name: The job name of the push.
        added: Whether the push added a job. False if a job with this id is on the queue, or another job holds the
            unique key. None if it is not known yet: a follow-up is added when the job that pushed it ends,
            a row of an outbox when a relay pushes it.
        replaced: Whether the push replaced the waiting job that holds the unique key: see `on_conflict`.
        is_other: Whether this is another, unchanged job, which may have another name.
    """

    id: str
    name: str
    added: bool | None
    replaced: bool
    is_other: bool = field(default=False, kw_only=True, repr=False, compare=False)

    def __str__(self) -> str:
        return self.id


def checked_queue_name(name: str) -> str:
    """Return a queue's name; raise a ValueError if it can't be in braces in the names of the queue's keys."""
    if not is_text(name, r"[^{}\s\x00-\x1f]{1,200}"):
        raise ValueError(f"{name!r} can't name a queue: give 1 to 200 characters, no braces or spaces")
    return name


_FORMS = "a dataclass, a pydantic model or a TypedDict"
_NAME = r"[^\s\x00-\x1f]{1,200}"


@dataclass(frozen=True)
class JobName(Generic[P]):
    """A job's name with the type of its parameters, so that several names can share one type.

    Args:
        name: The stored name: 1 to 200 characters, no spaces or control characters.
        parameters: A dataclass, a pydantic model or a TypedDict.
    """

    name: str
    parameters: type[P]
    what: ClassVar[str] = "parameters"
    of_job: ClassVar[str] = "parameters"
    is_result: ClassVar[bool] = False
    wanted: ClassVar[str] = _FORMS

    def __post_init__(self) -> None:
        if not is_text(self.name, _NAME):
            raise RegistrationError(f"{self.name!r} can't name a job: give 1 to 200 characters, no spaces")
        if not _may_be_type(self.parameters):
            wrong = f"{type(self).__name__}({self.name!r}, ...): {_shown(self.parameters)} is not a type"
            raise RegistrationError(f"{wrong}; give {self.wanted}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the name and the type, not what is cached."""
        return type(self), (self.name, self.parameters)

    @cached_property
    def adapter(self) -> TypeAdapter[P]:
        """Pydantic's adapter, which writes and validates the parameters; see `adapter_for`."""
        return adapter_for(self)

    @cached_property
    def round_trip(self) -> RoundTrip:
        """The check that parameters come back from JSON as they were; see `roundtrip.py`."""
        return RoundTrip(self.adapter.core_schema)


def checked_name(name: str | JobName[Any]) -> str:
    """Return a job name as text; raise a ValueError if it can't be one."""
    text = name.name if isinstance(name, JobName) else name
    if not is_text(text, _NAME):
        raise ValueError(f"name={name!r}: give the name of a job, 1 to 200 characters, no spaces")
    return text


class ReturnType(JobName[P]):
    """The return type of a handler. Its result is encoded and decoded like parameters."""

    what: ClassVar[str] = "the result"
    of_job: ClassVar[str] = "result"
    is_result: ClassVar[bool] = True
    wanted: ClassVar[str] = "what the handler returns, as int or a dataclass"


@dataclass(frozen=True, slots=True)
class Expected:
    """The result that a waiting process expects."""

    returns: ReturnType[Any] | None = None  # None: plain JSON
    is_certain: bool = True  # False: another job held the unique key, and its result may have another type
    unkept_by: str = ""  # the job's name, if its handler here keeps no result; other processes may keep it


def _may_be_type(parameters: object) -> bool:
    """Return whether a value is a type or a type form like `list[int]`."""
    forms = ("typing", "types", "typing_extensions")
    return isinstance(parameters, type) or parameters is None or type(parameters).__module__ in forms


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def adapter_for(name: JobName[Any]) -> TypeAdapter[Any]:
    """Return pydantic's adapter for the type of a job's parameters, or of its result.

    Raises:
        RegistrationError: pydantic has no schema for the type.
    """
    shown = _type_shown(name.parameters)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_readable(name.parameters))
    except PydanticSchemaGenerationError as error:
        raise RegistrationError(f"{name.name}: {_not_writable(name, error)}") from error
    except (PydanticUserError, NameError) as error:
        why = getattr(error, "message", str(error))
        raise RegistrationError(f"{name.name}: {shown} can't be a job's {name.of_job}: {why}") from error
    if not adapter.pydantic_complete:
        raise RegistrationError(
            f"{name.name}: {shown} can't be a job's {name.of_job}: it names a type that isn't there"
        )
    return adapter


def _not_writable(name: JobName[Any], error: PydanticSchemaGenerationError) -> str:
    """Return which type JSON has no form for, where it is, and what to write instead."""
    found = re.search(r"schema for (.+?)\. Set `arb", error.message, re.DOTALL)
    kind = _type_shown(found[1] if found else name.parameters)
    verb = "return" if name.is_result else "push"
    if where := _field_without_schema(name.parameters, error.message):
        return f"'{where}' takes a {kind}, which JSON has no form for: {verb} its id, or its values as {_FORMS}"
    if name.is_result:
        return f"its result is a {kind}, which JSON has no form for: return its id, or its values as {_FORMS}"
    return f"a {kind} can't be a job's parameters: give {name.wanted}"


def _type_shown(kind: Any) -> str:
    """Return a type for messages: `shop.User` for a class."""
    return re.sub(r"^<class '(.+)'>$", r"\1", str(kind))


def _field_without_schema(kind: Any, message: str) -> str:
    """Return the field of a type about which pydantic has this message; '' if it is about the type itself."""
    hints: Mapping[str, Any] = {}
    with suppress(Exception):  # reading an annotation may run any code
        hints = get_type_hints(kind)
    for name, hint in hints.items():
        try:
            TypeAdapter(hint)
        except PydanticSchemaGenerationError as error:
            if error.message == message:  # not for a ClassVar
                return name
        except Exception:
            continue
    return ""


def _readable(parameters: Any) -> Any:
    """Return a type that pydantic accepts. Before Python 3.12 it refuses `typing.TypedDict`."""
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
        RegistrationError: The type has no `job_name`, or inherits it from another parameter type.
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
    """Return the error for a type that inherits its job name from another parameter type; '' for other types.

    The handler of that name takes the base class, so the fields that the subclass adds would be lost.
    """
    if not isinstance(kind, type) or "job_name" in vars(kind):
        return ""
    generic = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin")  # Box for a Box[int]
    for base in kind.__mro__[1:]:
        has_fields = vars(base).keys() & {"__dataclass_fields__", "__pydantic_core_schema__"}  # empty for a mixin
        if has_fields and base is not generic and (name := getattr(base, "job_name", None)):
            its, other = kind.__name__, base.__name__
            return (
                f"{name}: a {its} would arrive as a {other}, which has that job name; push a {other}, give {its} "
                f"a job_name and a handler of its own, or use JobName('...', {its})"
            )
    return ""


@dataclass(frozen=True)
class JobDefinition(Generic[P]):
    """A registered handler, with its job name and options."""

    name: JobName[P]
    call: Callable[[P, Any], Any]  # takes (parameters, context), and may return an awaitable
    is_async: bool  # `call` is a coroutine function; a sync one runs in a thread
    retry: RetryPolicy
    timeout: float | None = None  # seconds
    stalled_after: float | None = None  # seconds without a progress report
    keep_ms: int = 0  # for how long its result is kept, unless the push gives a time; 0: not at all
    strict_result: bool = False  # the job fails if its result can't be kept
    awaits: bool = True  # the handler itself is async; a sync one gets a `sync.JobContext`
    in_process: bool = False  # it runs in a separate process
    function: Any = None  # the application's function, which that process imports by name
    by_name: bool = False  # the function takes its parameters by name
    limit: str = ""  # the limit that its code declares, as `Limit.text`
    returned: Callable[[], Any] = lambda: Any  # returns its return annotation
    limit_key: Callable[[P], str | int] | None = None  # returns a job's key for the limit
    priority: Priority | None = None  # of its jobs, unless the push has one
    unique: Callable[[P], str | None] | None = None  # returns a job's unique key, unless the push has one
    version: int = 1  # stored with a job's first step
    cancels_children: bool = (
        False  # if the job becomes a dead letter, its children that have not ended are cancelled
    )

    @cached_property
    def returns(self) -> ReturnType[Any]:
        """The handler's return type, read from its annotation.

        Raises:
            RegistrationError: The annotation can't be read, or pydantic has no schema for the type.
        """
        kind = ReturnType(self.name.name, self.returned())
        _ = kind.round_trip
        return kind
