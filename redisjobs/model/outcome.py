"""The outcomes of a run, and the settlement for each. Pure; the worker carries the settlement out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redisjobs.base.arguments import milliseconds
from redisjobs.base.visible import visible
from redisjobs.errors import Fail, Retry, Snooze, UnwritableResult, WrongType
from redisjobs.model.failures import (
    Fingerprint,
    deciding,
    ends_job,
    failures_in,
    fingerprint_of,
    format_exception,
)
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.transitions import Ack, After, At, DeadLetter, NewJob, Result, RetryLater, Settlement, Suspend

_UNKNOWN_FIRST, _UNKNOWN_LONGEST = 1_000, 15_000  # ms between tries of a job without a handler
_UNPLACED = 1_000  # ms until a job is tried again whose worker has no thread or process for it
_MOST_NAMED = 3  # errors of a group that are named in one line
_ERROR_CHARACTERS = 1_000
_FRAMES_CHARACTERS, _MESSAGE_CHARACTERS = 12_000, 4_000  # of a traceback


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned."""

    result: Result | None = None
    pushes: Sequence[NewJob] = ()  # the handler's follow-ups, which are added in the step that ends its job


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised, or exceeded its timeout."""

    error: BaseException


class RemoteTraceback(Exception):
    """The cause of an error from another process. It has the traceback and the fingerprint made there."""

    def __init__(self, text: str, fingerprint: Fingerprint | None = None) -> None:
        super().__init__(text)
        self.fingerprint = fingerprint or Fingerprint()


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The job was cancelled while it ran."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The handler waits."""

    suspend: Suspend


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker shuts down or has no slot for the job, or other code in its event loop cancelled the run."""

    counts: bool = False  # the delivery counts, because the job itself may have caused the interruption


@dataclass(frozen=True, slots=True)
class Unplaced:
    """The worker has no thread or process for the handler."""


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """Another worker has the job now."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """The entry is not a job that the handler can be called with."""

    text: str


@dataclass(frozen=True, slots=True)
class Unpushable:
    """The run is over, but the store can't write what it came to: a result, say, or follow-ups."""

    text: str
    error_type: str = WrongType.__name__


@dataclass(frozen=True, slots=True)
class Expired:
    """The job was not started in time."""

    text: str


@dataclass(frozen=True, slots=True)
class UnknownName:
    """No handler is registered here for the name."""

    name: str
    since_ms: int | None  # since when no worker has had a handler; None: this worker is the first
    give_up_ms: int  # how long after that the job becomes a dead letter


Ended = Done | Raised | Unplaced | LeaseGone | Undecodable | Unpushable | Expired | UnknownName
"""An outcome that `decide` settles."""

Outcome = Ended | CancelAsked | Suspended | Interrupted
"""What a run came to. Its `Execution` settles a cancelled, suspended or interrupted one, and asks no policy."""


def decide(
    outcome: Ended, *, attempt: int, started_ms: int, now_ms: int, policy: RetryPolicy
) -> Settlement | None:
    """Return how to settle a job that ended, by its retry policy; None if another worker has it.

    `attempt` counts from 1. `started_ms` is when the first run with an outcome began.
    """
    match outcome:
        case Done(result, pushes):
            return Ack(result=result, pushes=pushes)
        case Unplaced():
            return RetryLater(After(_UNPLACED))
        case LeaseGone():
            return None
        case Undecodable(text):
            return DeadLetter("undecodable", _clip(text))
        case Unpushable(text, error_type):
            return DeadLetter("failed", _clip(text), error_type=error_type)
        case Expired(text):
            return DeadLetter("expired", text)
        case UnknownName():
            return _park(outcome, now_ms)
        case Raised(error):
            return _after(error, attempt, started_ms, now_ms, policy)


def _park(unknown: UnknownName, now_ms: int) -> Settlement:
    """Retry later, because in a rolling deploy another worker soon has the handler; at the end, give up."""
    since = now_ms if unknown.since_ms is None else unknown.since_ms
    waited = now_ms - since
    if waited >= unknown.give_up_ms:
        why = f"no worker had a handler for '{unknown.name}' in {waited / 1000:.0f} s"
        return DeadLetter("unknown name", _clip(why))
    # Wait again a quarter as long as it has waited so far. If only some workers have the handler, each try may
    # come to another one. With waits that doubled, 7 of 200 jobs took longer than a minute.
    delay = min(max(waited // 4, _UNKNOWN_FIRST), _UNKNOWN_LONGEST)
    error = _clip(f"no handler registered for '{unknown.name}'")
    return RetryLater(After(delay), {"unknown_since": str(since), "error": error})


def _after(error: BaseException, attempt: int, started_ms: int, now_ms: int, policy: RetryPolicy) -> Settlement:
    # The next worker sees by `started_at` that the job has run before, so that it does not expire.
    changes = {"started_at": str(started_ms), "unknown_since": ""}
    match steering := deciding(error):
        case Fail() | UnwritableResult():
            return _failed(_clip(text_of(steering)), error)
        case _ if ends_job(steering):
            return _failed(describe(steering), error)
        case Snooze(until=None, for_=pause) if pause is not None:
            return RetryLater(After(milliseconds(pause)), changes)
        case Snooze(until=until) if until is not None:
            return RetryLater(At(max(0, milliseconds(until.timestamp()))), changes)
    elapsed = (now_ms - started_ms) / 1000
    delay = policy.delay_after(error, attempt, elapsed, asked=isinstance(steering, Retry))
    if delay is None:
        return _failed(describe(error), error)
    if isinstance(steering, Retry) and steering.delay is not None:
        delay = steering.delay
    changes |= {"attempt": str(attempt + 1), "error": describe(error)}
    return RetryLater(After(milliseconds(delay)), changes)


def _failed(text: str, error: BaseException) -> DeadLetter:
    known = known_as(error)
    return DeadLetter("failed", text, traceback_of(error), known.error_type, known.digest)


def known_as(error: BaseException) -> Fingerprint:
    """Return the fingerprint of an error; if it comes from another process, the one made there."""
    cause = BaseException.__dict__["__cause__"].__get__(error)
    return cause.fingerprint if type(cause) is RemoteTraceback else fingerprint_of(deciding(error))


def describe(error: BaseException) -> str:
    """Return an exception in one line: `ValueError: not a number`. Of a group, name the first failures in it."""
    errors = failures_in(error)
    more = f"; and {len(errors) - _MOST_NAMED} more" if len(errors) > _MOST_NAMED else ""
    return _clip("; ".join(map(_describe, errors[:_MOST_NAMED])) + more)


def _describe(error: BaseException) -> str:
    text = " ".join(text_of(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    """Return an error's text, or a replacement if its `__str__` raises."""
    try:
        return plain(error)
    except BaseException as broken:
        return f"its text can't be read: __str__ raised {type(broken).__name__}"


def plain(value: object) -> str:
    """Return the text of a value as a plain str, because a subclass of str may override any method."""
    return str.__str__(str(value))


def attach(error: BaseException, slot: Literal["__cause__", "__context__"], other: BaseException | None) -> None:
    """Set the cause or the context of an error, even if its class prevents that."""
    BaseException.__dict__[slot].__set__(error, other)


def traceback_of(error: BaseException) -> str:
    """Return the traceback as text; if it is too long, its last frames and the beginning of its message."""
    try:
        if isinstance(error.__cause__, RemoteTraceback):
            return str(error.__cause__)
        parts = format_exception(error)
    except BaseException as broken:
        return f"the traceback can't be read: {type(broken).__name__}"
    frames = max((at + 1 for at, part in enumerate(parts) if part.lstrip(" |").startswith('File "')), default=0)
    # The message of a cause may be as long as the last one.
    stack = "".join(_shorten(part, _MESSAGE_CHARACTERS) for part in parts[:frames])
    message = _shorten("".join(parts[frames:]), _MESSAGE_CHARACTERS)
    return _writable(stack[-_FRAMES_CHARACTERS:] + message)


def _clip(text: str) -> str:
    return visible(text, _ERROR_CHARACTERS)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _writable(text: str) -> str:
    """Return text that UTF-8 can encode, because an exception may quote half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
