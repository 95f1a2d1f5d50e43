"""A distributed job queue for Python on Redis Streams.

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
    from redisjobs.codec import JobInfo

    # Jobs
    from redisjobs.context import JobContext, current_job

    # Errors
    from redisjobs.errors import (
        DecodeError,
        DriverError,
        EncodeError,
        Fail,
        JobCancelled,
        JobFailed,
        JobStalled,
        JobTimeout,
        NoResult,
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
        Unavailable,
        UniqueConflict,
        UnknownJob,
        UnknownSchedule,
        UnwritableResult,
        WrongType,
    )

    # Looking at many jobs
    from redisjobs.filters import FilterOptions
    from redisjobs.groups import DeadGroup
    from redisjobs.job import JobName, OnConflict, Priority, PushedJob, State, UniqueUntil, WhyWaiting

    # Limits
    from redisjobs.limits import LimitedKey, LimitInfo

    # Middleware
    from redisjobs.middleware import Middleware
    from redisjobs.options import HandlerOptions, PushOptions
    from redisjobs.pauses import PauseInfo
    from redisjobs.progress import Progress
    from redisjobs.queries import Counts
    from redisjobs.queue import JobFunction, JobHandle, JobQueue

    # What is kept
    from redisjobs.retention import Keep, Retention

    # Retries
    from redisjobs.retry import RetryPolicy, exponential_jitter, no_retry

    # Schedules
    from redisjobs.schedules.schedule import Schedule

    # Whoever runs jobs
    from redisjobs.schedules.scheduler import Scheduler
    from redisjobs.schedules.stored import Accuracy, ScheduleInfo
    from redisjobs.service import Lifespan, Service
    from redisjobs.transitions import Reply
    from redisjobs.worker.worker import Worker
    from redisjobs.workers import WorkerInfo

_MODULES = {
    "codec": ["JobInfo"],
    "context": ["JobContext", "current_job"],
    "errors": [
        *("DecodeError", "DriverError", "EncodeError", "Fail", "JobCancelled", "JobFailed", "JobStalled"),
        *("JobTimeout", "NoResult", "ProcessDied", "QueueFull", "RedisJobsError", "RegistrationError"),
        *("ResultExpired", "ResultNotKept", "ResultRefused", "Retry", "ServerNotFound", "ServerTooOld"),
        *("Snooze", "Unavailable", "UniqueConflict", "UnknownJob", "UnknownSchedule", "UnwritableResult"),
        "WrongType",
    ],
    "filters": ["FilterOptions"],
    "groups": ["DeadGroup"],
    "job": ["JobName", "OnConflict", "Priority", "PushedJob", "State", "UniqueUntil", "WhyWaiting"],
    "limits": ["LimitInfo", "LimitedKey"],
    "middleware": ["Middleware"],
    "options": ["HandlerOptions", "PushOptions"],
    "pauses": ["PauseInfo"],
    "progress": ["Progress"],
    "queries": ["Counts"],
    "queue": ["JobFunction", "JobHandle", "JobQueue"],
    "retention": ["Keep", "Retention"],
    "retry": ["RetryPolicy", "exponential_jitter", "no_retry"],
    "schedules.schedule": ["Schedule"],
    "schedules.scheduler": ["Scheduler"],
    "schedules.stored": ["Accuracy", "ScheduleInfo"],
    "service": ["Lifespan", "Service"],
    "transitions": ["Reply"],
    "worker.worker": ["Worker"],
    "workers": ["WorkerInfo"],
}
"""The modules of what is exported. Each is imported once somebody asks for a name of it: whoever only pushes never
loads what runs jobs, and the command line says its version without loading either."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Accuracy",
    "Counts",
    "DeadGroup",
    "DecodeError",
    "DriverError",
    "EncodeError",
    "Fail",
    "FilterOptions",
    "HandlerOptions",
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobFunction",
    "JobHandle",
    "JobInfo",
    "JobName",
    "JobQueue",
    "JobStalled",
    "JobTimeout",
    "Keep",
    "Lifespan",
    "LimitInfo",
    "LimitedKey",
    "Middleware",
    "NoResult",
    "OnConflict",
    "PauseInfo",
    "Priority",
    "ProcessDied",
    "Progress",
    "PushOptions",
    "PushedJob",
    "QueueFull",
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
    "Unavailable",
    "UniqueConflict",
    "UniqueUntil",
    "UnknownJob",
    "UnknownSchedule",
    "UnwritableResult",
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
