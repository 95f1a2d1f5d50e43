"""A distributed job queue for Python on Redis Streams or Postgres.

::

    queue = JobQueue("redis://127.0.0.1:6379/0", name="emails")

    @queue.register(SendEmail)
    async def send_email(parameters: SendEmail, context: JobContext) -> None: ...

    async with queue:
        job = await queue.push(SendEmail(to="joe@email.com"))
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from redisjobs._version import __version__ as __version__

if sys.version_info < (3, 11):  # noqa: UP036  (a checkout can be run without an installer that would say so)
    raise ImportError("redisjobs needs Python 3.11 or newer; this is Python " + sys.version.split()[0])

if TYPE_CHECKING:
    # Queues
    # Errors
    # Looking at many jobs
    from redisjobs.client.operations import FilterOptions
    from redisjobs.errors import (
        ChunksFull,
        ChunksLost,
        DecodeError,
        DriverError,
        EncodeError,
        Fail,
        Forbidden,
        JobCancelled,
        JobFailed,
        JobStalled,
        JobSuspended,
        JobTimeout,
        NoResult,
        NotAdded,
        NoTransaction,
        ProcessDied,
        QueueFull,
        RedisJobsError,
        RegistrationError,
        ResultExpired,
        ResultNotKept,
        ResultRefused,
        Retry,
        ServerNotFound,
        ServerTooOld,
        Snooze,
        StepsFull,
        Unavailable,
        UniqueConflict,
        UnknownJob,
        UnknownSchedule,
        UnwritableResult,
        WrongType,
    )

    # Middleware
    from redisjobs.events.middleware import Middleware

    # Jobs
    from redisjobs.model.chunks import Chunk
    from redisjobs.model.context import JobContext, current_job
    from redisjobs.model.definition import Accuracy
    from redisjobs.model.health import Finding, Level

    # Limits
    from redisjobs.model.history import PastEvent
    from redisjobs.model.info import (
        ChildGroup,
        ChildInfo,
        ChildOf,
        DeadGroup,
        JobInfo,
        LimitedKey,
        LimitInfo,
        PauseInfo,
        WorkerInfo,
    )
    from redisjobs.model.job import JobName, OnConflict, Priority, PushedJob, State, UniqueUntil, WhyWaiting
    from redisjobs.model.options import HandlerOptions, PushOptions
    from redisjobs.model.progress import Progress
    from redisjobs.model.queries import Counts

    # What is kept
    from redisjobs.model.retention import Keep, Retention

    # Retries
    from redisjobs.model.retry import RetryPolicy, exponential_jitter, no_retry

    # Statistics
    from redisjobs.model.statistics import (
        CauseStatistics,
        Interval,
        NameStatistics,
        Overview,
        Percentiles,
        QueueSample,
        Tally,
    )
    from redisjobs.model.steps import StepInfo
    from redisjobs.model.stored import ScheduleInfo
    from redisjobs.model.transitions import PreparedJob, Reply
    from redisjobs.model.why import Cause, Why
    from redisjobs.queue import JobFunction, JobHandle, JobQueue

    # Schedules
    from redisjobs.schedules.schedule import Schedule

    # Workers and services
    from redisjobs.worker.scheduler.scheduler import Scheduler
    from redisjobs.worker.service import Lifespan, Service
    from redisjobs.worker.worker import Worker

_MODULES = {
    "model.context": ["JobContext", "current_job"],
    "model.chunks": ["Chunk"],
    "errors": [
        *(
            "ChunksFull",
            "ChunksLost",
            "DecodeError",
            "DriverError",
            "EncodeError",
            "Fail",
            "Forbidden",
            "JobCancelled",
            "JobFailed",
        ),
        *(
            "JobStalled",
            "JobSuspended",
            "JobTimeout",
            "NoResult",
            "NoTransaction",
            "NotAdded",
            "ProcessDied",
            "QueueFull",
            "RedisJobsError",
            "RegistrationError",
        ),
        *("ResultExpired", "ResultNotKept", "ResultRefused", "Retry", "ServerNotFound", "ServerTooOld"),
        *(
            "Snooze",
            "StepsFull",
            "Unavailable",
            "UniqueConflict",
            "UnknownJob",
            "UnknownSchedule",
            "UnwritableResult",
        ),
        "WrongType",
    ],
    "client.operations": ["FilterOptions"],
    "model.job": ["JobName", "OnConflict", "Priority", "PushedJob", "State", "UniqueUntil", "WhyWaiting"],
    "model.history": ["PastEvent"],
    "model.info": [
        *("ChildGroup", "ChildInfo", "ChildOf", "DeadGroup", "JobInfo", "LimitInfo", "LimitedKey", "PauseInfo"),
        "WorkerInfo",
    ],
    "events.middleware": ["Middleware"],
    "model.options": ["HandlerOptions", "PushOptions"],
    "model.progress": ["Progress"],
    "model.queries": ["Counts"],
    "queue": ["JobFunction", "JobHandle", "JobQueue"],
    "model.retention": ["Keep", "Retention"],
    "model.retry": ["RetryPolicy", "exponential_jitter", "no_retry"],
    "schedules.schedule": ["Schedule"],
    "worker.scheduler.scheduler": ["Scheduler"],
    "model.definition": ["Accuracy"],
    "model.statistics": [
        *("CauseStatistics", "Interval", "NameStatistics", "Overview", "Percentiles", "QueueSample", "Tally"),
    ],
    "model.stored": ["ScheduleInfo"],
    "worker.service": ["Lifespan", "Service"],
    "model.steps": ["StepInfo"],
    "model.transitions": ["PreparedJob", "Reply"],
    "model.why": ["Cause", "Why"],
    "model.health": ["Finding", "Level"],
    "worker.worker": ["Worker"],
}
"""The modules of the exported names. Each is imported when a name of it is first used: a producer never loads the
worker, and the command line says its version without loading either."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Accuracy",
    "Cause",
    "CauseStatistics",
    "ChildGroup",
    "ChildInfo",
    "ChildOf",
    "Chunk",
    "ChunksFull",
    "ChunksLost",
    "Counts",
    "DeadGroup",
    "DecodeError",
    "DriverError",
    "EncodeError",
    "Fail",
    "FilterOptions",
    "Finding",
    "Forbidden",
    "HandlerOptions",
    "Interval",
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobFunction",
    "JobHandle",
    "JobInfo",
    "JobName",
    "JobQueue",
    "JobStalled",
    "JobSuspended",
    "JobTimeout",
    "Keep",
    "Level",
    "Lifespan",
    "LimitInfo",
    "LimitedKey",
    "Middleware",
    "NameStatistics",
    "NoResult",
    "NoTransaction",
    "NotAdded",
    "OnConflict",
    "Overview",
    "PastEvent",
    "PauseInfo",
    "Percentiles",
    "PreparedJob",
    "Priority",
    "ProcessDied",
    "Progress",
    "PushOptions",
    "PushedJob",
    "QueueFull",
    "QueueSample",
    "RedisJobsError",
    "RegistrationError",
    "Reply",
    "ResultExpired",
    "ResultNotKept",
    "ResultRefused",
    "Retention",
    "Retry",
    "RetryPolicy",
    "Schedule",
    "ScheduleInfo",
    "Scheduler",
    "ServerNotFound",
    "ServerTooOld",
    "Service",
    "Snooze",
    "State",
    "StepInfo",
    "StepsFull",
    "Tally",
    "Unavailable",
    "UniqueConflict",
    "UniqueUntil",
    "UnknownJob",
    "UnknownSchedule",
    "UnwritableResult",
    "Why",
    "WhyWaiting",
    "Worker",
    "WorkerInfo",
    "WrongType",
    "current_job",
    "exponential_jitter",
    "no_retry",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
