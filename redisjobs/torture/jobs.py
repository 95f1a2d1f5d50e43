"""The torture's jobs. Its workers import this as `redisjobs.torture.jobs:queue`.

Every start and every end of a handler is written into this process' recording.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import anyio
from tenacity import stop_after_attempt, wait_exponential_jitter

from redisjobs.codec import new_job_id
from redisjobs.errors import DriverError, Fail, QueueFull
from redisjobs.job import JobContext
from redisjobs.queue import JobQueue
from redisjobs.retry import RetryPolicy, exponential_jitter, no_retry
from redisjobs.schedules.schedule import Schedule
from redisjobs.server import DEFAULT_URL
from redisjobs.torture import process
from redisjobs.transitions import MOST_JOBS

ATTEMPTS = 3
"""Runs that a job gets which fails each time."""


@dataclass(frozen=True, slots=True)
class Work:
    """Runs for so many seconds."""

    job_name: ClassVar[str] = "Work"
    seconds: float


@dataclass(frozen=True, slots=True)
class ThreadWork:
    """The same in a thread."""

    job_name: ClassVar[str] = "ThreadWork"
    seconds: float


@dataclass(frozen=True, slots=True)
class Flaky:
    """Fails until its attempt of this number."""

    job_name: ClassVar[str] = "Flaky"
    until: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Raises `Fail`."""

    job_name: ClassVar[str] = "Hopeless"


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A job that only workers of the newer release know, as in a rolling deploy."""

    job_name: ClassVar[str] = "Newcomer"


@dataclass(frozen=True, slots=True)
class Poison:
    """Kills its process, each time."""

    job_name: ClassVar[str] = "Poison"


@dataclass(frozen=True, slots=True)
class Blocker:
    """Blocks the event loop for so many seconds."""

    job_name: ClassVar[str] = "Blocker"
    seconds: float


@dataclass(frozen=True, slots=True)
class Pusher:
    """Pushes another job."""

    job_name: ClassVar[str] = "Pusher"


@dataclass(frozen=True, slots=True)
class Latest:
    """A version of a thing, pushed in place of an older one that waits."""

    job_name: ClassVar[str] = "Latest"
    key: str
    version: int


class Unheard(BaseException):
    """What no `except Exception` catches."""


RAISED: Mapping[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (KeyboardInterrupt, GeneratorExit, SystemExit, asyncio.CancelledError, StopAsyncIteration, Unheard)
}
"""What handlers raise, by name."""

UPSET = ("cancel all tasks", "cancel a task a turn", "stop the loop", "hold a cancel scope")
"""What else handlers do to the event loop before they fail; what runs beside them goes on."""


@dataclass(frozen=True, slots=True)
class Raiser:
    """Raises one of `RAISED`."""

    job_name: ClassVar[str] = "Raiser"
    what: str


@dataclass(frozen=True, slots=True)
class Upsetter:
    """Does one of `UPSET`, and fails."""

    job_name: ClassVar[str] = "Upsetter"
    what: str


@dataclass(frozen=True, slots=True)
class ThreadRaiser:
    """Raises one of `RAISED`, in a thread."""

    job_name: ClassVar[str] = "ThreadRaiser"
    what: str


@dataclass(frozen=True, slots=True)
class Trap:
    """Raises one of `RAISED` where its parameters are made; by a worker only."""

    job_name: ClassVar[str] = "Trap"
    what: str

    def __post_init__(self) -> None:
        """Raise it."""
        if process.RECORDINGS in os.environ:
            raise RAISED[self.what]()


@dataclass(frozen=True, slots=True)
class Steep:
    """Fails, and its wait grows tenfold with each attempt."""

    job_name: ClassVar[str] = "Steep"


@dataclass(frozen=True, slots=True)
class Tick:
    """What schedules push."""

    job_name: ClassVar[str] = "Tick"


_retry = exponential_jitter(max_attempts=ATTEMPTS, max_backoff=0.3)
queue = JobQueue(DEFAULT_URL, name=os.environ.get(process.QUEUE, "torture"), retry=_retry)


@queue.register(Work)
async def work(parameters: Work, context: JobContext) -> None:
    """Take a while."""
    with process.noted(context):
        await anyio.sleep(parameters.seconds)


@queue.register(ThreadWork)
def work_in_a_thread(parameters: ThreadWork, context: JobContext) -> None:
    """Take a while, and can't be interrupted."""
    with process.noted(context):
        time.sleep(parameters.seconds)


@queue.register(Flaky)
async def fail_at_first(parameters: Flaky, context: JobContext) -> None:
    """Fail, and fail, and succeed, or not even then."""
    with process.noted(context):
        await anyio.sleep(0.005)
        if context.attempt < parameters.until:
            raise RuntimeError(f"attempt {context.attempt} fails, as it should")


@queue.register(Hopeless, retry=no_retry())
async def give_up(parameters: Hopeless, context: JobContext) -> None:
    """Ask to be a dead letter."""
    with process.noted(context):
        raise Fail("as it should")


if process.OLD not in os.environ:

    @queue.register(Newcomer)
    async def welcome(parameters: Newcomer, context: JobContext) -> None:
        """Be known here."""
        with process.noted(context):
            pass


@queue.register(Poison)
async def kill(parameters: Poison, context: JobContext) -> None:
    """Take the process, and what else it runs, along."""
    with process.noted(context):
        os.kill(os.getpid(), signal.SIGKILL)


@queue.register(Blocker)
async def block(parameters: Blocker, context: JobContext) -> None:
    """Be written badly."""
    with process.noted(context):
        time.sleep(parameters.seconds)  # noqa: ASYNC251


@queue.register(Pusher)
async def push_another(parameters: Pusher, context: JobContext) -> None:
    """Push as any producer does, on the connection of this process."""
    with process.noted(context):
        job_id, pushed = new_job_id(), Work(0.001)
        process.note("push", job=job_id, name=pushed.job_name)
        try:
            handle = await queue.push(pushed, job_id=job_id)
        except DriverError as error:  # it may be there, or not
            process.note("refused", jobs=[job_id], full=isinstance(error, QueueFull), error=str(error))
        else:
            process.note("pushed", job=job_id, holder="", added=handle.added, delay=0.0)


@queue.register(Raiser, retry=no_retry())
async def raise_it(parameters: Raiser, context: JobContext) -> None:
    """Raise what nobody expects."""
    with process.noted(context):
        raise RAISED[parameters.what]()


@queue.register(Upsetter, retry=no_retry())
async def upset(parameters: Upsetter, context: JobContext) -> None:
    """Let the worker's event loop have all that a handler can do to it."""
    with process.noted(context, does=parameters.what):
        match parameters.what:
            case "cancel all tasks":
                for task in asyncio.all_tasks():
                    task.cancel()
                await anyio.sleep(0.05)
            case "cancel a task a turn":  # the worker hears of each by itself, and between them goes on
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                    await asyncio.sleep(0)
            case "stop the loop":
                asyncio.get_running_loop().stop()
                await anyio.sleep(0.05)
            case "hold a cancel scope":
                await anext(_held_scope())
        raise RuntimeError(f"{parameters.what}: fails, as it should")


async def _held_scope() -> AsyncIterator[None]:
    with anyio.CancelScope():
        yield


@queue.register(ThreadRaiser, retry=no_retry())
def raise_in_a_thread(parameters: ThreadRaiser, context: JobContext) -> None:
    """Raise what nobody expects, in a thread."""
    with process.noted(context):
        raise RAISED[parameters.what]()


@queue.register(Trap, retry=no_retry())
async def never_reached(parameters: Trap, context: JobContext) -> None:
    """Its parameters can't be made."""
    with process.noted(context):
        pass


@queue.register(Steep, retry=RetryPolicy(stop_after_attempt(ATTEMPTS), wait_exponential_jitter(exp_base=10)))
async def climb(parameters: Steep, context: JobContext) -> None:
    """Fail."""
    with process.noted(context):
        raise RuntimeError("fails, as it should")


@queue.register(Latest)
async def be_the_latest(parameters: Latest, context: JobContext) -> None:
    """Say which version this is."""
    with process.noted(context, key=parameters.key, version=str(parameters.version)):
        await anyio.sleep(0.02)


@queue.register(Tick)
async def tick(parameters: Tick, context: JobContext) -> None:
    """Be the job of a slot."""
    with process.noted(context):
        pass


queue.schedule(Tick(), Schedule.every(1), name="all", accuracy="all", at_most=MOST_JOBS)

if process.RECORDINGS in os.environ:
    process.begin(queue.events)
