"""A distributed job queue for Python on Redis Streams.

::

    queue = JobQueue("redis://127.0.0.1:6379/0", name="emails")

    @queue.register(SendEmail)
    async def send_email(parameters: SendEmail, context: JobContext) -> None: ...

    async with queue:
        job = await queue.push(SendEmail(to="joe@email.com"))
"""

from redisjobs._version import __version__ as __version__

# Queues
from redisjobs.codec import JobInfo
from redisjobs.driver import Counts, Reply

# Errors
from redisjobs.errors import (
    DecodeError,
    DriverError,
    EncodeError,
    Fail,
    JobTimeout,
    ProcessDied,
    QueueFull,
    RedisJobsError,
    RegistrationError,
    Retry,
    ServerNotFound,
    ServerTooOld,
    Snooze,
    Unavailable,
    UnknownJob,
    UnknownSchedule,
    WrongType,
)

# Looking at many jobs
from redisjobs.filters import FilterOptions
from redisjobs.groups import DeadGroup

# Jobs
from redisjobs.job import JobContext, JobName, Priority, State

# Middleware
from redisjobs.middleware import Middleware
from redisjobs.queue import JobFunction, JobHandle, JobQueue
from redisjobs.registry import PushOptions

# Retries
from redisjobs.retry import RetryPolicy, exponential_jitter, no_retry

# Schedules
from redisjobs.schedules.schedule import Schedule
from redisjobs.schedules.scheduler import Scheduler
from redisjobs.schedules.stored import Accuracy, ScheduleInfo

# Services
from redisjobs.service import Lifespan, Service

# Workers
from redisjobs.worker.worker import Worker

__all__ = [
    "Accuracy",
    "Counts",
    "DeadGroup",
    "DecodeError",
    "DriverError",
    "EncodeError",
    "Fail",
    "FilterOptions",
    "JobContext",
    "JobFunction",
    "JobHandle",
    "JobInfo",
    "JobName",
    "JobQueue",
    "JobTimeout",
    "Lifespan",
    "Middleware",
    "Priority",
    "ProcessDied",
    "PushOptions",
    "QueueFull",
    "RedisJobsError",
    "RegistrationError",
    "Reply",
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
    "UnknownJob",
    "UnknownSchedule",
    "Worker",
    "WrongType",
    "exponential_jitter",
    "no_retry",
]
