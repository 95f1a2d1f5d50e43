"""The flows of a torture: jobs that save steps, sleep, wait for signals, and run children.

Their handlers record each step that they run, each wait that they begin, and what each wait gave them. A later run
of a job records its earlier waits again, because it finds how they ended.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio

from redisjobs import sync
from redisjobs.errors import Fail, NoResult
from redisjobs.events.middleware import Middleware, OutgoingJob
from redisjobs.model.context import JobContext
from redisjobs.model.options import PushOptions
from redisjobs.model.retry import no_retry
from redisjobs.model.transitions import PreparedJob
from redisjobs.queue import JobQueue
from redisjobs_proof.torture.fleet import process
from redisjobs_proof.torture.fleet.store import UNSIGNALLED

SIGNAL = "go"
"""The signal that jobs wait for."""

BATCH = 500
"""The children of a crowd that its parent adds at once."""

_CROWD = BATCH + 100
_PAUSE, _PAUSED = "pause", 3.0  # header of a child before which its parent pauses; for how many seconds
_STAYS = 4.0  # seconds for which a child of a crowd can be found, at least


@dataclass(frozen=True, slots=True)
class Saving:
    """Saves this many steps, some seconds apart, and fails between them before attempt `until`."""

    job_name: ClassVar[str] = "Saving"
    steps: int
    until: int = 1
    seconds: float = 0.02


@dataclass(frozen=True, slots=True)
class ThreadSaving:
    """Does the same in a thread."""

    job_name: ClassVar[str] = "ThreadSaving"
    steps: int
    until: int = 1
    seconds: float = 0.02


@dataclass(frozen=True, slots=True)
class Sleeper:
    """Sleeps again and again, for these seconds."""

    job_name: ClassVar[str] = "Sleeper"
    naps: Sequence[float]


@dataclass(frozen=True, slots=True)
class Waiter:
    """Waits for its signal this many times, each time for some seconds at most; None for no limit."""

    job_name: ClassVar[str] = "Waiter"
    times: int
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Unsignalled:
    """Waits for a signal that no producer sends."""

    job_name: ClassVar[str] = UNSIGNALLED


@dataclass(frozen=True, slots=True)
class Family:
    """Runs children in groups, one group after another; `named`: it chooses their ids."""

    job_name: ClassVar[str] = "Family"
    groups: Sequence[Sequence[str]]
    named: bool = False


@dataclass(frozen=True, slots=True)
class Crowd:
    """Runs more children than one call adds; its first run pauses between two of these calls."""

    job_name: ClassVar[str] = "Crowd"


@dataclass(frozen=True, slots=True)
class Child:
    """A child. `does` is `work`, `sleep`, or `family`: then it has children of its own."""

    job_name: ClassVar[str] = "Child"
    parent: str
    number: int
    does: str = "work"


@dataclass(frozen=True, slots=True)
class BadChild:
    """A child that fails."""

    job_name: ClassVar[str] = "BadChild"
    parent: str
    number: int


FLOWS = tuple(
    kind.job_name for kind in (Saving, ThreadSaving, Sleeper, Waiter, Unsignalled, Family, Crowd, Child, BadChild)
)
"""The names of these jobs."""


def child_id(parent: str, number: int) -> str:
    """Return the id of a child of a family that names its children, or of a crowd."""
    return f"{parent}.{number}"


def register(queue: JobQueue) -> None:
    """Register the handlers of all flows."""

    @queue.register(Family)
    async def have_family(parameters: Family, context: JobContext) -> dict[str, Any]:
        with process.noted(context):
            for group, kinds in enumerate(parameters.groups):
                await _run_children(queue, context, group, kinds, named=parameters.named)
        return process.result(context)

    @queue.register(Crowd)
    async def have_crowd(parameters: Crowd, context: JobContext) -> dict[str, Any]:
        with process.noted(context):
            pauses = context.deliveries == 1
            children = [_of_crowd(queue, context, number, pauses=pauses) for number in range(_CROWD)]
            await _wait_for_children(context, 0, children)
        return process.result(context)

    @queue.register(Child)
    async def be_child(parameters: Child, context: JobContext) -> dict[str, Any]:
        with process.noted(context, parent=parameters.parent, number=parameters.number):
            match parameters.does:
                case "sleep":
                    await _sleep(context, 0, 0.2)
                case "family":
                    await _run_children(queue, context, 0, ("work", "fail", "sleep"), named=False)
                case _:
                    await anyio.sleep(0.01)
        return process.result(context)

    queue.register(BadChild, retry=no_retry())(_fail)
    queue.register(Saving)(_save)
    queue.register(ThreadSaving)(_save_in_a_thread)
    queue.register(Sleeper)(_sleep_often)
    queue.register(Waiter)(_wait_often)
    queue.register(Unsignalled)(_wait_for_nothing)
    queue.add_middleware(_Pause())


# Steps


async def _save(parameters: Saving, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        for number in range(parameters.steps):
            value = await context.step("save", _ran, context, number)
            process.of_flow("saved", context, number, value=value)
            await anyio.sleep(parameters.seconds)
            if 2 * number >= parameters.steps:
                process.fail_until(parameters.until, context)
    return process.result(context)


def _save_in_a_thread(parameters: ThreadSaving, context: sync.JobContext) -> dict[str, Any]:
    with process.noted(context):
        for number in range(parameters.steps):
            value = context.step("save", _ran, context, number)
            process.of_flow("saved", context, number, value=value)
            time.sleep(parameters.seconds)
            if 2 * number >= parameters.steps:
                process.fail_until(parameters.until, context)
    return process.result(context)


def _ran(context: JobContext, number: int) -> str:
    value = secrets.token_hex(6)
    process.of_flow("ran step", context, number, value=value)
    return value


# Waits


async def _sleep_often(parameters: Sleeper, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        for number, seconds in enumerate(parameters.naps):
            await _sleep(context, number, seconds)
    return process.result(context)


async def _sleep(context: JobContext, number: int, seconds: float) -> None:
    process.of_flow("waits", context, number, wait="time", seconds=seconds)
    await context.sleep(seconds)
    process.of_flow("passed", context, number, how="slept", value=None)


async def _wait_often(parameters: Waiter, context: JobContext) -> dict[str, Any]:
    with process.noted(context):
        for number in range(parameters.times):
            await _wait(context, number, parameters.timeout)
    return process.result(context)


async def _wait_for_nothing(parameters: Unsignalled, context: JobContext) -> None:
    with process.noted(context):
        await _wait(context, 0, None)


async def _wait(context: JobContext, number: int, timeout: float | None) -> None:
    process.of_flow("waits", context, number, wait="signal", seconds=timeout)
    value = await context.wait_for(SIGNAL, timeout=timeout, default=None)
    process.of_flow("passed", context, number, how="timeout" if value is None else "signal", value=value)


# Children


async def _fail(parameters: BadChild, context: JobContext) -> None:
    with process.noted(context, parent=parameters.parent, number=parameters.number):
        raise Fail("as it should")


async def _run_children(
    queue: JobQueue, context: JobContext, group: int, kinds: Sequence[str], *, named: bool
) -> None:
    children = []
    for number, does in enumerate(kinds, 100 * group):
        parent = context.job_id
        options: PushOptions = {"job_id": child_id(parent, number)} if named else {}
        kind = BadChild(parent, number) if does == "fail" else Child(parent, number, does)
        children.append(queue.prepare(kind, **options))
    await _wait_for_children(context, group, children)


async def _wait_for_children(context: JobContext, group: int, children: Sequence[PreparedJob[Any]]) -> None:
    process.of_flow("waits", context, group, wait="children", seconds=None, children=len(children))
    outcomes = await context.run_all(children, on_failure="return", name="children")
    process.of_flow("passed", context, group, how="children", value=[*map(_told, outcomes)])


def _told(outcome: Any) -> dict[str, Any]:
    """Return the outcome of a child for a recording: `how` is `done` or an error."""
    if isinstance(outcome, NoResult):
        return {"job": outcome.job_id, "how": type(outcome).__name__, "result": None}
    return {"job": outcome.get("job") if isinstance(outcome, dict) else "", "how": "done", "result": outcome}


def _of_crowd(queue: JobQueue, context: JobContext, number: int, *, pauses: bool) -> PreparedJob[Any]:
    options: PushOptions = {"job_id": child_id(context.job_id, number)}
    if number == 0:
        options["delay"] = _STAYS  # so that it can be found meanwhile
    if pauses and number == BATCH:
        options["headers"] = {_PAUSE: ""}
    return queue.prepare(Child(context.job_id, number), **options)


class _Pause(Middleware):
    """Pauses a parent before it adds one of its children, so that a fault can kill it then."""

    async def on_push(self, job: OutgoingJob) -> None:
        """Pause, if this is that child."""
        if _PAUSE in job.headers:
            await anyio.sleep(_PAUSED)
