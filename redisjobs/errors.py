"""Every exception of redisjobs. The reference page on errors shows them as a tree."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from redisjobs.base.arguments import aware, seconds
from redisjobs.base.visible import visible

E = TypeVar("E", bound=BaseException)


def _unpickled(kind: type[E], arguments: tuple[Any, ...], state: dict[str, Any]) -> E:
    """Return an exception as it was in another process, without calling `__init__`."""
    error = kind.__new__(kind, *arguments)
    vars(error).update(state)
    return error


class RedisJobsError(Exception):
    """The root of every error this package raises."""


class EncodeError(RedisJobsError):
    """Raised at push when parameters don't fit their declared type, or are too large. Nothing was sent."""


class UnwritableResult(EncodeError):
    """Raised when a step's result, or that of a `strict_result` job, can't be kept. The job is not run again."""


class DecodeError(RedisJobsError):
    """Raised when a stored entry is not a job, or its parameters don't fit the handler's type."""


class RegistrationError(RedisJobsError):
    """Raised when a handler, a name or a parameter type can't be registered."""


class UnknownJob(RedisJobsError):
    """Raised when no handler is registered for a job's name."""


class UnknownSchedule(RedisJobsError):
    """Raised when a queue has no schedule of this name, or can't read it. Nothing was pushed."""


class NoTransaction(RedisJobsError):
    """Raised by a push `within=` a connection that has no transaction to write in. Nothing was written."""


class UniqueConflict(RedisJobsError):
    """Raised when another job holds the unique key: by a push with `on_conflict="raise"`, and by `requeue`.

    Jobs whose unique key another job holds were not written. All other jobs of the same call were pushed. A job
    that was to be requeued stays as it is.

    Attributes:
        job_ids: The ids of the jobs that hold the keys: one for each job that was not pushed, in push order. Of a
            requeue, the one that holds the key; none if that is not known, because the server did not say.
    """

    def __init__(self, message: str, *, job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.job_ids = tuple(job_ids)

    @property
    def job_id(self) -> str:
        """The id of the job that holds the key; the first of several."""
        return self.job_ids[0] if self.job_ids else ""


class JobTimeout(RedisJobsError):
    """Raised for a handler that exceeded its timeout. The retry policy decides whether it runs again."""


class JobStalled(RedisJobsError):
    """Raised for a handler that reported no progress for too long. The retry policy decides about a new run."""


class ProcessDied(RedisJobsError):
    """Raised for a handler whose process died. The retry policy decides whether it runs again."""


class NoResult(RedisJobsError):
    """Raised by `result`, `run` and `run_all` when a job has no result.

    Attributes:
        job_id: The job's id.
        of_child: Whether it is a child of the job that gets the error. Then that job is not tried again: its next
            run would get the same error.
    """

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.of_child = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with its attributes."""
        return _unpickled, (type(self), self.args, vars(self))


class JobFailed(NoResult):
    """Raised when the job you wait for is a dead letter, until you requeue or delete it.

    Attributes:
        type: The class of its handler's exception, with its module; '' if none was raised.
        message: The error, in one line.
        traceback: The traceback of the exception, as text; '' if none was raised, or the dead letter was deleted.
        reason: Why it is a dead letter, in a word or two, for example `failed`; '' if it was deleted.
    """

    def __init__(self, job_id: str, type: str, message: str, traceback: str = "", reason: str = "") -> None:
        super().__init__(job_id, f"job {visible(job_id)} failed: {message}")
        self.type = type
        self.message = message
        self.traceback = traceback
        self.reason = reason


class JobCancelled(NoResult):
    """Raised when the job you wait for was cancelled."""


class ResultRefused(NoResult):
    """Raised when a job is done, but its result could not be stored. The message says why."""


class ResultExpired(NoResult):
    """Raised when a job is done, but its result is no longer kept."""


class ResultNotKept(NoResult):
    """Raised when a job's result is not kept, or the job is unknown."""


class NotAdded(NoResult):
    """Raised when a child was not added: another job has its id, or holds its unique key."""


class DriverError(RedisJobsError):
    """Raised when the store failed, or did not answer in time.

    The message says what is true now. After a failed push, the jobs are not on the queue, or the message says
    that they may be. Up to 50 s after the push began, `push_many(error.jobs)` repeats it, and no job is added
    twice. A later repetition is refused, and its error says what to do.

    Attributes:
        jobs: The jobs of a failed push that may not be on the queue. You can give them to `push_many`.
    """

    def __init__(self, message: str, *, jobs: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.jobs = tuple(jobs)

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The ids of the jobs of a failed push."""
        return tuple(str(job.job_id) for job in self.jobs)


class Unavailable(DriverError):
    """Raised when the store did not answer, or refused for the moment. A new try may help."""


class QueueFull(DriverError):
    """Raised at push when the server is out of memory. None of its `jobs` was written."""


class WrongType(DriverError):
    """Raised when a key of the queue has the wrong type. After a push, none of its `jobs` was written.

    A worker keeps its jobs and their outcomes until you rename or delete the key.
    """


class Forbidden(DriverError):
    """Raised when the server's ACL forbids a command that the call needs. A part of the call may be done."""


class ServerTooOld(DriverError):
    """Raised at connect when the server is too old for the scripts. Nothing was written."""


class ServerNotFound(RedisJobsError):
    """Raised when no local Redis-compatible server could be found or started."""


class StepsFull(RedisJobsError):
    """Raised when a job can save no more steps, or keep no more signals. No function was called, nothing saved."""


class ChunksFull(RedisJobsError):
    """Raised when a worker has no room for a chunk, because the server has not taken those before it.

    This chunk was not emitted; those before it will be.
    """


class ChunksLost(RedisJobsError):
    """Raised for a reader of a job's chunks that has fallen behind the oldest chunk that is kept.

    Attributes:
        job_id: The job's id.
        lost: How many chunks the reader has lost.
        after: The id to go on from with the oldest chunk that is kept: `stream(after=error.after)`.
    """

    def __init__(self, job_id: str, lost: int, after: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.lost = lost
        self.after = after

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with its attributes; the default would call `__init__` without them."""
        return _unpickled, (type(self), self.args, vars(self))


class JobSuspended(BaseException):
    """Raised in a handler by a wait that is not over: the run ends here, and the next one goes on after the wait.

    Let it pass: no `except BaseException` around a wait without a `raise`. `finally` and `async with` work as
    usual.
    """


class Steering(Exception):
    """The root of the exceptions that a handler raises to choose its job's outcome."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the exception with its attributes; it does not keep the arguments of `__init__`."""
        return _unpickled, (type(self), self.args, vars(self))


class Retry(Steering):
    """Run this job again. It spends an attempt; after its last attempt the job becomes a dead letter.

    Args:
        either: The delay, or the reason if it is text.
        delay: Seconds or a timedelta from now. Defaults to the delay of the retry policy.
        reason: Kept with the job as its last error.

    Raises:
        ValueError: The delay is not a duration, or the delay or the reason is given twice.
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
        why = either if isinstance(either, str) else reason
        after = delay if either is None or isinstance(either, str) else either
        super().__init__(str(why) or "the handler asked for a retry")
        self.delay = None if after is None else seconds(after, "delay")


class Snooze(Steering):
    """Run this job again later, without spending an attempt. For a job whose input is not there yet.

    Args:
        for_: Seconds or a timedelta from now.
        until: An aware datetime. Give exactly one of the two.
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
    """Make this job a dead letter now, even if its retry policy has attempts left.

    Args:
        reason: Kept as the dead letter's error.
    """

    def __init__(self, reason: str = "the handler said so") -> None:
        super().__init__(reason)


def single_cause(error: BaseException) -> BaseException:
    """Return one error of a group in which all come from the store, best not `Unavailable`; else the group."""
    leaves = leaves_of(error)
    if len(leaves) > 1 and not all(isinstance(leaf, DriverError) for leaf in leaves):
        return error
    return next((leaf for leaf in leaves if not isinstance(leaf, Unavailable)), leaves[0])


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the errors of an exception group and of the groups in it, in order; of another error, itself."""
    leaves, left = list[BaseException](), [error]
    while left:
        each = left.pop()
        if issubclass(type(each), BaseExceptionGroup):  # `isinstance` may run code of the error
            left += reversed(BaseExceptionGroup.exceptions.__get__(each))  # a subclass may override it
        else:
            leaves.append(each)
    return leaves
