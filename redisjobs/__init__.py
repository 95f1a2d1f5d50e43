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
    from redisjobs.errors import DriverError as DriverError
    from redisjobs.errors import EncodeError as EncodeError
    from redisjobs.errors import Fail as Fail
    from redisjobs.errors import JobCancelled as JobCancelled
    from redisjobs.errors import JobFailed as JobFailed
    from redisjobs.errors import RedisJobsError as RedisJobsError
    from redisjobs.errors import Retry as Retry
    from redisjobs.errors import Snooze as Snooze
    from redisjobs.errors import Unavailable as Unavailable
    from redisjobs.errors import UniqueConflict as UniqueConflict
    from redisjobs.events.middleware import Middleware as Middleware
    from redisjobs.model.chunks import Chunk as Chunk
    from redisjobs.model.context import JobContext as JobContext
    from redisjobs.model.context import current_job as current_job
    from redisjobs.model.info import JobInfo as JobInfo
    from redisjobs.model.job import JobName as JobName
    from redisjobs.model.job import Priority as Priority
    from redisjobs.model.job import PushedJob as PushedJob
    from redisjobs.model.job import State as State
    from redisjobs.model.options import HandlerOptions as HandlerOptions
    from redisjobs.model.options import PushOptions as PushOptions
    from redisjobs.model.progress import Progress as Progress
    from redisjobs.model.retention import Keep as Keep
    from redisjobs.model.retention import Retention as Retention
    from redisjobs.model.retry import RetryPolicy as RetryPolicy
    from redisjobs.model.retry import exponential_jitter as exponential_jitter
    from redisjobs.model.retry import no_retry as no_retry
    from redisjobs.model.transitions import PreparedJob as PreparedJob
    from redisjobs.model.transitions import Reply as Reply
    from redisjobs.queue import JobHandle as JobHandle
    from redisjobs.queue import JobQueue as JobQueue
    from redisjobs.schedules.schedule import Schedule as Schedule
    from redisjobs.worker.scheduler.scheduler import Scheduler as Scheduler
    from redisjobs.worker.service import Service as Service
    from redisjobs.worker.worker import Worker as Worker
else:
    # Imported when one is first used: a producer never loads the worker, and `redisjobs --version` loads neither.
    _MODULE_OF = {
        name: module
        for module, names in {
            "errors": (
                "DriverError EncodeError Fail JobCancelled JobFailed RedisJobsError Retry Snooze Unavailable "
                "UniqueConflict"
            ),
            "events.middleware": "Middleware",
            "model.chunks": "Chunk",
            "model.context": "JobContext current_job",
            "model.info": "JobInfo",
            "model.job": "JobName Priority PushedJob State",
            "model.options": "HandlerOptions PushOptions",
            "model.progress": "Progress",
            "model.retention": "Keep Retention",
            "model.retry": "RetryPolicy exponential_jitter no_retry",
            "model.transitions": "PreparedJob Reply",
            "queue": "JobHandle JobQueue",
            "schedules.schedule": "Schedule",
            "worker.scheduler.scheduler": "Scheduler",
            "worker.service": "Service",
            "worker.worker": "Worker",
        }.items()
        for name in names.split()
    }
    __all__ = sorted(_MODULE_OF)

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULE_OF})
