"""The jobs of a torture. Its workers import `redisjobs_proof.torture.fleet.jobs:queue`.

Handlers record each of their starts and ends.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import anyio
from tenacity import stop_after_attempt, wait_exponential_jitter, wait_fixed

from redisjobs.errors import DriverError, Fail, QueueFull
from redisjobs.local.server import DEFAULT_URL
from redisjobs.model.codec import new_job_id
from redisjobs.model.context import JobContext
from redisjobs.model.job import Priority
from redisjobs.model.options import PushOptions
from redisjobs.model.retry import RetryPolicy, exponential_jitter, no_retry
from redisjobs.model.transitions import MOST_JOBS
from redisjobs.queue import JobQueue
from redisjobs_proof.torture.fleet import flows, process
from redisjobs_proof.torture.fleet.rules import OTHER_RULE, RULE

ATTEMPTS = 3
"""Attempts of a job that fails each time."""

STUBBORN = 12
"""Attempts of a job that fails often."""

KEPT = 6 * 3600
"""Seconds for which results are kept: longer than any torture lasts."""

AT_ONCE = 2
"""How many limited jobs of a key may run at once."""


@dataclass(frozen=True, slots=True)
class Work:
    """Runs for some seconds."""

    job_name: ClassVar[str] = "Work"
    seconds: float


@dataclass(frozen=True, slots=True)
class ThreadWork:
    """Runs for some seconds, in a thread."""

    job_name: ClassVar[str] = "ThreadWork"
    seconds: float


@dataclass(frozen=True, slots=True)
class Flaky:
    """Fails before attempt `until`."""

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
    """Ends its worker in each run, by one of `POISONS`."""

    job_name: ClassVar[str] = "Poison"
    does: str = "kill the process"


@dataclass(frozen=True, slots=True)
class Blocker:
    """Blocks the event loop for some seconds."""

    job_name: ClassVar[str] = "Blocker"
    seconds: float


@dataclass(frozen=True, slots=True)
class Pusher:
    """Pushes another job."""

    job_name: ClassVar[str] = "Pusher"


@dataclass(frozen=True, slots=True)
class Limited:
    """Runs for some seconds; at most `AT_ONCE` of a key run at once."""

    job_name: ClassVar[str] = "Limited"
    key: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Seldom:
    """One job of a key may start in an hour, so the others wait as long as the torture lasts."""

    job_name: ClassVar[str] = "Seldom"
    key: int


@dataclass(frozen=True, slots=True)
class Paced:
    """A job whose rate limits how many start in a second."""

    job_name: ClassVar[str] = "Paced"


@dataclass(frozen=True, slots=True)
class Latest:
    """A version of a thing; its push replaces an older version that waits."""

    job_name: ClassVar[str] = "Latest"
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Parent:
    """Pushes different follow-ups in each run, takes some seconds, and fails before attempt `until`."""

    job_name: ClassVar[str] = "Parent"
    seconds: float = 0.0
    until: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """Takes some seconds, and pushes the next step of its chain, which holds the chain's unique key."""

    job_name: ClassVar[str] = "Step"
    left: int
    key: str = ""
    seconds: float = 0.01


@dataclass(frozen=True, slots=True)
class Reporting:
    """Reports progress this many times."""

    job_name: ClassVar[str] = "Reporting"
    times: int


@dataclass(frozen=True, slots=True)
class Emitting:
    """Emits this many chunks."""

    job_name: ClassVar[str] = "Emitting"
    times: int


@dataclass(frozen=True, slots=True)
class Stubborn:
    """Fails in each of many attempts, soon after each other."""

    job_name: ClassVar[str] = "Stubborn"


@dataclass(frozen=True, slots=True)
class Bulky:
    """Returns a result of about this many bytes."""

    job_name: ClassVar[str] = "Bulky"
    size: int


@dataclass(frozen=True, slots=True)
class Follower:
    """Pushes a follow-up that has this unique key, or this id."""

    job_name: ClassVar[str] = "Follower"
    key: str
    by_key: bool


@dataclass(frozen=True, slots=True)
class Heavy:
    """Has large parameters, so that a claim of some has a large answer."""

    job_name: ClassVar[str] = "Heavy"
    ballast: str


class Unheard(BaseException):
    """An exception that no `except Exception` catches."""


RAISED: Mapping[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (KeyboardInterrupt, GeneratorExit, SystemExit, asyncio.CancelledError, StopAsyncIteration, Unheard)
}
"""The exceptions that handlers raise, by name."""

LEAVES_SCOPE = "leave a cancel scope open"
"""A handler may also do this before it raises."""

POISONS = ("kill the process", "cancel all tasks", "cancel a task a turn", "stop the loop")
"""The ways in which a job ends its worker."""


@dataclass(frozen=True, slots=True)
class Raiser:
    """Raises one of `RAISED`, or does `LEAVES_SCOPE`."""

    job_name: ClassVar[str] = "Raiser"
    what: str


@dataclass(frozen=True, slots=True)
class ThreadRaiser:
    """Raises one of `RAISED`, in a thread."""

    job_name: ClassVar[str] = "ThreadRaiser"
    what: str


@dataclass(frozen=True, slots=True)
class Trap:
    """Raises one of `RAISED` when a worker makes its parameters."""

    job_name: ClassVar[str] = "Trap"
    what: str

    def __post_init__(self) -> None:
        """Raise the exception, if this is a worker."""
        if process.RECORDINGS in os.environ:
            raise RAISED[self.what]()


@dataclass(frozen=True, slots=True)
class Steep:
    """Fails, and its wait grows tenfold with each attempt."""

    job_name: ClassVar[str] = "Steep"


@dataclass(frozen=True, slots=True)
class Tick:
    """The job of a schedule."""

    job_name: ClassVar[str] = "Tick"


_MOST_BYTES = 3_000_000  # of a result: larger than a server with a limit takes
_retry = exponential_jitter(max_attempts=ATTEMPTS, max_backoff=0.3)
process.take_proxies()  # before the first connection is prepared
queue = JobQueue(
    DEFAULT_URL, name=os.environ.get(process.QUEUE, "torture"), retry=_retry, max_parameters=_MOST_BYTES
)


@queue.register(Work)
async def _work(parameters: Work, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        await anyio.sleep(parameters.seconds)
    return process.result(context)


@queue.register(ThreadWork)
def _work_in_a_thread(parameters: ThreadWork, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        time.sleep(parameters.seconds)
    return process.result(context)


@queue.register(Flaky)
async def _fail_at_first(parameters: Flaky, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        await anyio.sleep(0.005)
        process.fail_until(parameters.until, context)
    return process.result(context)


@queue.register(Hopeless, retry=no_retry())
async def _give_up(parameters: Hopeless, context: JobContext) -> None:
    with process.noted(context):
        raise Fail("as it should")


@queue.register(Poison, retry=no_retry())
async def _end_process(parameters: Poison, context: JobContext) -> None:
    with process.noted(context):
        match parameters.does:
            case "cancel all tasks":
                for task in asyncio.all_tasks():
                    task.cancel()
            case "cancel a task a turn":  # the worker sees each cancel by itself
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                    await asyncio.sleep(0)
            case "stop the loop":
                asyncio.get_running_loop().stop()
            case _:
                os.kill(os.getpid(), signal.SIGKILL)
        await anyio.sleep_forever()


@queue.register(Blocker)
async def _block(parameters: Blocker, context: JobContext) -> None:
    with process.noted(context):
        time.sleep(parameters.seconds)  # noqa: ASYNC251


@queue.register(Pusher)
async def _push_another(parameters: Pusher, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        job_id, pushed = new_job_id(), Work(0.001)
        process.note("push", job=job_id, name=pushed.job_name)
        try:
            handle = await queue.push(pushed, job_id=job_id)
        except DriverError as error:  # it may be there, or not
            process.note("refused", jobs=[job_id], full=isinstance(error, QueueFull), error=str(error))
        else:
            process.note("pushed", job=job_id, holder="", added=handle.added, delay=0.0)
    return process.result(context)


@queue.register(Parent)
async def _push_follow_ups(parameters: Parent, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        options: Sequence[PushOptions] = (
            {},
            {"delay": 0.3, "keep_result": KEPT},
            {"job_id": f"of-{context.job_id}", "priority": Priority.HIGH},
        )
        for each in options[: 1 + (context.attempt + context.deliveries) % len(options)]:
            process.follow_up(context, Work(0.001), **each)
        await anyio.sleep(parameters.seconds)
        process.fail_until(parameters.until, context)
    return process.result(context)


@queue.register(Stubborn, retry=RetryPolicy(stop_after_attempt(STUBBORN), wait_fixed(0.02)))
async def _fail_often(parameters: Stubborn, context: JobContext) -> None:
    with process.noted(context):
        raise RuntimeError("fails, as it should")


@queue.register(Bulky)
async def _return_much(parameters: Bulky, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        await anyio.sleep(0.05)
    return {**process.result(context), "ballast": "x" * parameters.size}


@queue.register(Follower)
async def _follow(parameters: Follower, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        options: PushOptions = {"unique": parameters.key} if parameters.by_key else {"job_id": parameters.key}
        process.follow_up(context, Work(0.001), **options)
    return process.result(context)


@queue.register(Step)
def _go_on(parameters: Step, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        if parameters.left:
            following = replace(parameters, left=parameters.left - 1)
            process.follow_up(context, following, unique=parameters.key or None)
        time.sleep(parameters.seconds)
    return process.result(context)


@queue.register(Reporting)
async def _report(parameters: Reporting, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        for number in range(parameters.times):
            context.progress(number, parameters.times, context.job_id)
            await anyio.sleep(0.1)
    return process.result(context)


@queue.register(Emitting)
async def _emit(parameters: Emitting, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        for number in range(parameters.times):
            context.emit([number, "x" * 1000])
            await anyio.sleep(0.1)
    return process.result(context)


@queue.register(Raiser, retry=no_retry())
async def _raise_it(parameters: Raiser, context: JobContext) -> None:
    with process.noted(context):
        if parameters.what == LEAVES_SCOPE:
            await anext(_left_scope())
        raise RAISED.get(parameters.what, RuntimeError)()


async def _left_scope() -> AsyncIterator[None]:
    with anyio.CancelScope():
        yield


@queue.register(ThreadRaiser, retry=no_retry())
def _raise_in_a_thread(parameters: ThreadRaiser, context: JobContext) -> None:
    with process.noted(context):
        raise RAISED[parameters.what]()


@queue.register(Steep, retry=RetryPolicy(stop_after_attempt(ATTEMPTS), wait_exponential_jitter(exp_base=10)))
async def _climb(parameters: Steep, context: JobContext) -> None:
    with process.noted(context):
        raise RuntimeError("fails, as it should")


@queue.register(Latest)
async def _be_the_latest(parameters: Latest, context: JobContext) -> None:
    with process.noted(context, key=parameters.key, version=str(parameters.version)):
        await anyio.sleep(0.02)


@queue.register(Limited, max_concurrency=AT_ONCE, limit_key=lambda limited: limited.key)
async def _run_few(parameters: Limited, context: JobContext) -> dict[str, Any]:
    with process.noted(context, key=parameters.key):
        await anyio.sleep(parameters.seconds)
    return process.result(context)


async def _only_note(parameters: object, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        pass
    return process.result(context)


if process.OLD not in os.environ:
    queue.register(Newcomer)(_only_note)
queue.register(Trap, retry=no_retry())(_only_note)
queue.register(Seldom, rate="1/h", limit_key=lambda seldom: seldom.key)(_only_note)
queue.register(Paced, rate="20/s", burst=5)(_only_note)
queue.register(Tick)(_only_note)
queue.register(Heavy)(_only_note)
flows.register(queue)

rule = OTHER_RULE if process.OTHER_RULE in os.environ else RULE
queue.schedule(Tick(), rule, name="all", accuracy="all", at_most=MOST_JOBS)

if process.RECORDINGS in os.environ:
    process.begin(queue.events)
