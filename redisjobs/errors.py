"""Every exception of redisjobs.

::

    RedisJobsError
    ├── EncodeError        parameters do not fit their declared type, or are too large; nothing was sent
    ├── DecodeError        an entry's bytes are not a job, or its parameters do not fit the handler
    ├── RegistrationError  a handler, a name or a type can't be registered as asked
    ├── UnknownJob         no handler is registered for a name
    ├── JobTimeout         a handler outran its timeout; the retry policy decides
    ├── ProcessDied        a handler's process died while it ran; the retry policy decides
    ├── DriverError        the store failed or did not answer
    │   ├── Unavailable    it did not answer, or not now; trying again may help
    │   ├── QueueFull      the server is out of memory; nothing was written
    │   ├── WrongType      a key of the queue was made by hand as something else; nothing was written
    │   └── ServerTooOld   the server lacks what the scripts need; nothing was written
    └── ServerNotFound     no local Redis-compatible server could be found or started

    Steering               raised by a handler to choose its job's fate; not errors
    ├── Retry              run again, one attempt spent
    ├── Snooze             run again, no attempt spent
    └── Fail               dead letter, now
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from numbers import Number
from typing import Any, TypeGuard, TypeVar

Choice = TypeVar("Choice", bound=StrEnum)

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def seconds(duration: float | timedelta, what: str) -> float:
    """A duration given as seconds or as a timedelta, in seconds.

    Args:
        duration: The duration.
        what: What the caller calls it, for the message.

    Raises:
        ValueError: It is negative, or no number of seconds.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    # Any kind of number, a Decimal say, but for bool, which is one by its class only.
    if isinstance(value, bool) or not isinstance(value, float | int | Number) or not 0 <= value < 1e10:
        raise ValueError(f"{what}={duration!r}: give seconds from 0 up, or a timedelta")
    return float(value)


def number(value: float, what: str) -> float:
    """A number, if it is one.

    Raises:
        ValueError: It is something else; `what` is what the caller calls it.
    """
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise ValueError(f"{what}={value!r}: give a number")
    return value


def whole(value: int, what: str) -> int:
    """A whole number from 1 up, if it is one.

    Raises:
        ValueError: It is something else; `what` is what the caller calls it.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what}={value!r}: give a whole number from 1 up")
    return value


def one_of(kind: type[Choice], value: str, what: str) -> Choice:
    """One of a few words, which may be given as text.

    Raises:
        ValueError: It is none of them; `what` is what the caller calls it.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{each.name} ('{each}')" for each in kind)
        raise ValueError(f"{what}={value!r}: give one of {known}") from None


def is_text(value: object, pattern: str) -> TypeGuard[str]:
    """Whether something is text that matches a pattern whole, and that UTF-8 can carry."""
    return isinstance(value, str) and bool(re.fullmatch(pattern, value)) and not _HALF_A_PAIR.search(value)


def aware(time: datetime, what: str) -> datetime:
    """A moment, if it is one.

    Args:
        time: The moment.
        what: What the caller calls it, for the message.

    Raises:
        ValueError: It is no datetime, or has no time zone.
    """
    if not isinstance(time, datetime):
        raise ValueError(f"{what}={time!r}: give a datetime, as datetime(2030, 1, 31, 8, tzinfo=UTC)")
    if time.tzinfo is None:
        raise ValueError(f"{what}={time!r} has no time zone; give an aware datetime")
    return time


def milliseconds(value: float) -> int:
    """Seconds in whole ms, rounded up, for nothing may happen before its time."""
    return math.ceil(value * 1000 - 0.001)  # 1.1 s are no 1,101 ms


class RedisJobsError(Exception):
    """The root of every error this package raises."""


class EncodeError(RedisJobsError):
    """Raised at push when parameters don't fit their declared type or are too large; nothing was sent."""


class DecodeError(RedisJobsError):
    """Raised when an entry's bytes are not a job, or its parameters don't fit the handler's type."""


class RegistrationError(RedisJobsError):
    """Raised when a handler, a name or a parameter type can't be registered as asked."""


class UnknownJob(RedisJobsError):
    """Raised when no handler is registered for a job's name."""


class JobTimeout(RedisJobsError):
    """Raised in a handler's stead when it outran its timeout; the retry policy decides what follows."""


class ProcessDied(RedisJobsError):
    """Raised in a handler's stead when the process that it ran in died; the retry policy decides what follows."""


class DriverError(RedisJobsError):
    """Raised when the store failed or did not answer in time.

    The message says what is true afterwards. After a failed push the jobs are not there, or, where it says so,
    may be there: `push_many(error.jobs)` makes that very push again, and adds nothing twice, up to 50 s after it
    began. Later that is refused, and the error says what to do.

    Attributes:
        jobs: The jobs of a failed push that are not known to be on the queue, as `prepare` makes them.
    """

    def __init__(self, message: str, *, jobs: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.jobs = tuple(jobs)

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The ids of the jobs of a failed push."""
        return tuple(str(job.job_id) for job in self.jobs)


class Unavailable(DriverError):
    """Raised when the store did not answer, or said "not now"; trying again may help."""


class QueueFull(DriverError):
    """Raised at push when the server is out of memory; nothing was written."""


class WrongType(DriverError):
    """Raised when a key of the queue was made by hand as something else; nothing was written.

    A worker keeps what it runs, and what it has outcomes of, until the key is renamed or deleted.
    """


class ServerTooOld(DriverError):
    """Raised at connect when the server lacks what the scripts need; nothing was written."""


class ServerNotFound(RedisJobsError):
    """Raised when no local Redis-compatible server could be found or started."""


class Steering(Exception):
    """The root of what a handler raises to choose its job's fate."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Taken to another process as it is: what it was made from is not kept."""
        return _steering, (type(self), self.args, vars(self))


def _steering(kind: type[Steering], arguments: tuple[Any, ...], state: dict[str, Any]) -> Steering:
    steering = kind.__new__(kind, *arguments)
    vars(steering).update(state)
    return steering


class Retry(Steering):
    """Run this job again, one attempt spent; a dead letter once the policy's attempts are used up.

    Args:
        either: The delay, or a text, which is the reason.
        delay: Seconds or a timedelta from now. Defaults to what the retry policy says.
        reason: Kept with the job as its last error.

    Raises:
        ValueError: The delay can't be one, or one of the two is given twice.
    """

    def __init__(
        self,
        either: float | timedelta | str | None = None,
        /,
        *,
        delay: float | timedelta | None = None,
        reason: str = "",
    ) -> None:
        if either is not None and (reason if isinstance(either, str) else delay is not None):
            raise ValueError(f"Retry({either!r}, ...): give one delay and one reason, as Retry(30, reason='busy')")
        said = either if isinstance(either, str) else reason
        after = delay if either is None or isinstance(either, str) else either
        super().__init__(str(said) or "the handler asked for a retry")
        self.delay = None if after is None else seconds(after, "delay")


class Snooze(Steering):
    """Run this job again later, no attempt spent: what it waits for is not there yet.

    Args:
        for_: Seconds or a timedelta from now.
        until: An aware datetime. Exactly one of the two is given.
    """

    def __init__(self, for_: float | timedelta | None = None, *, until: datetime | None = None) -> None:
        if (for_ is None) == (until is None):
            raise ValueError("Snooze takes one of the two, as Snooze(for_=60) or Snooze(until=a_datetime)")
        if isinstance(for_, datetime):
            raise ValueError(f"Snooze({for_!r}): a time is given as Snooze(until=...)")
        super().__init__(f"snoozed until {until}" if until else f"snoozed for {for_}")
        self.for_ = None if for_ is None else seconds(for_, "for_")
        self.until = None if until is None else aware(until, "until")


class Fail(Steering):
    """Make this job a dead letter now, whatever its retry policy says.

    Args:
        reason: Kept as the dead letter's error.
    """

    def __init__(self, reason: str = "the handler said so") -> None:
        super().__init__(reason)
