"""Every exception of redisjobs. The page of errors in the reference has them as a tree."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from redisjobs.base.arguments import aware, seconds
from redisjobs.base.visible import visible

E = TypeVar("E", bound=BaseException)


def _made_anew(kind: type[E], arguments: tuple[Any, ...], state: dict[str, Any]) -> E:
    """Return an exception as it was in another process: the arguments that made it are not kept."""
    error = kind.__new__(kind, *arguments)
    vars(error).update(state)
    return error


class RedisJobsError(Exception):
    """The root of every error this package raises."""


class EncodeError(RedisJobsError):
    """Raised at push when parameters don't fit their declared type or are too large; nothing was sent."""


class UnwritableResult(EncodeError):
    """Raised for a handler with `strict_result` whose result can't be kept; the job is not run again."""


class DecodeError(RedisJobsError):
    """Raised when an entry's bytes are not a job, or its parameters don't fit the handler's type."""


class RegistrationError(RedisJobsError):
    """Raised when a handler, a name or a parameter type can't be registered as asked."""


class UnknownJob(RedisJobsError):
    """Raised when no handler is registered for a job's name."""


class UnknownSchedule(RedisJobsError):
    """Raised when a queue has no schedule of a name, or none that can be read; nothing was pushed."""


class UniqueConflict(RedisJobsError):
    """Raised at push when another job holds the unique key, and `on_conflict="raise"` was given.

    Nothing was written for the jobs that met a held key. All other jobs of the same call were pushed.

    Attributes:
        job_ids: The ids of the jobs that hold the keys, one for each job that was not pushed, in their order.
    """

    def __init__(self, message: str, *, job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.job_ids = tuple(job_ids)

    @property
    def job_id(self) -> str:
        """The id of the job that holds the key; the first of several."""
        return self.job_ids[0] if self.job_ids else ""


class JobTimeout(RedisJobsError):
    """Raised for a handler that exceeded its timeout; the retry policy decides what follows."""


class JobStalled(RedisJobsError):
    """Raised for a handler that reported no progress for too long; the retry policy decides what follows."""


class ProcessDied(RedisJobsError):
    """Raised for a handler whose process died; the retry policy decides what follows."""


class NoResult(RedisJobsError):
    """Raised when a job that was waited for has no result.

    Attributes:
        job_id: The job's id.
    """

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as it is."""
        return _made_anew, (type(self), self.args, vars(self))


class JobFailed(NoResult):
    """Raised when a job that was waited for is a dead letter: it stays one until it is requeued or deleted.

    Attributes:
        type: The class of its handler's exception, with its module; '' if none was raised.
        message: The error, in one line.
        traceback: The traceback of the exception, as text; '' if none was raised, or the dead letter was deleted.
        reason: Why it is a dead letter, in a word or two, as `failed`; '' if it was deleted.
    """

    def __init__(self, job_id: str, type: str, message: str, traceback: str = "", reason: str = "") -> None:
        super().__init__(job_id, f"job {visible(job_id)} failed: {message}")
        self.type = type
        self.message = message
        self.traceback = traceback
        self.reason = reason


class JobCancelled(NoResult):
    """Raised when a job that was waited for was cancelled."""


class ResultRefused(NoResult):
    """Raised when a job is done, but its result could not be kept; the message says why."""


class ResultExpired(NoResult):
    """Raised when a job is done, but its result is no longer kept."""


class ResultNotKept(NoResult):
    """Raised when no result of a job is kept, or the job is unknown."""


class DriverError(RedisJobsError):
    """Raised when the store failed or did not answer in time.

    The message says what is true afterwards. After a failed push the jobs are not there, or, where it says so,
    may be there: `push_many(error.jobs)` makes the same push again, and adds nothing twice, up to 50 s after it
    began. Later that is refused, and the error says what to do.

    Attributes:
        jobs: The jobs of a failed push that may not be on the queue, as `prepare` makes them.
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
    """Raised at push when the server is out of memory; nothing of its `jobs` was written."""


class WrongType(DriverError):
    """Raised when a key of the queue has the wrong type; at a push, nothing of its `jobs` was written.

    A worker keeps its jobs and their outcomes until the key is renamed or deleted.
    """


class ServerTooOld(DriverError):
    """Raised at connect when the server lacks what the scripts need; nothing was written."""


class ServerNotFound(RedisJobsError):
    """Raised when no local Redis-compatible server could be found or started."""


class Steering(Exception):
    """The root of the exceptions by which a handler chooses its job's outcome."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as it is: the arguments that made it are not kept."""
        return _made_anew, (type(self), self.args, vars(self))


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


def single_cause(error: BaseException) -> BaseException:
    """Return the one cause of a group of errors, if there is one: the store refuses all tasks alike."""
    leaves = list(_leaves(error))
    if len(leaves) > 1 and not all(isinstance(leaf, DriverError) for leaf in leaves):
        return error
    return next((leaf for leaf in leaves if not isinstance(leaf, Unavailable)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
