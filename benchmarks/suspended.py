"""`python -m benchmarks.suspended`: a million suspended jobs. Half sleep for a day, half wait for a signal.

What they take of memory, how long it takes to wake one, and the longest calls of the server meanwhile.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import uvloop

from benchmarks import report
from benchmarks.flows import working
from benchmarks.report import number, table
from benchmarks.results import attach
from benchmarks.session import SIZE
from benchmarks.suspended_stores import SLOW, STORES, Store
from benchmarks.systems import Failed
from benchmarks.waiters import percentile
from redisjobs import JobContext, JobQueue, Reply, State
from redisjobs.errors import RedisJobsError
from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.health import Audit
from redisjobs.model.queries import Scan
from redisjobs.model.transitions import After, Lease, NewJob, Suspend, Wait, WaitsFor

QUEUE = "suspended"
_WITHIN = 60.0  # seconds until a handler goes on, at most
_DAY = 86_400_000  # ms
_BATCH = 240  # that a worker suspends by one call, at most: it counts 8 kB and the entry for each, up to 2 MB
_TEXT = f'{{"text":"{"x" * SIZE}"}}'

# Filling


def _job(number_of: int, due: After | None = None) -> NewJob:
    return NewJob(f"job-{number_of}", ["name", "waiter", "parameters", _TEXT], due=due)


async def delay(driver: Driver, many: int, done: Callable[[], object]) -> None:
    """Push jobs that are due in a day; `done` is called now and then."""
    for first in range(0, many, _BATCH):
        jobs = [_job(at, After(_DAY)) for at in range(first, min(first + _BATCH, many))]
        await driver.push(jobs, repeated=False)
        done()


async def suspend(driver: Driver, many: int, done: Callable[[], object]) -> None:
    """Suspend jobs as a worker does: those of even numbers wait for a signal, the others sleep for a day."""
    async with aclosing(driver.consumer("filler", lease=600, max_deliveries=3)) as consumer:
        await consumer.open()
        for first in range(0, many, _BATCH):
            await driver.push([_job(at) for at in range(first, min(first + _BATCH, many))], repeated=False)
            leases = await _claimed(consumer, min(_BATCH, many - first))
            answer = await consumer.exchange([(lease, _wait(lease)) for lease in leases], None)
            if set(answer.replies) != {Reply.OK}:
                raise Failed(f"jobs were not suspended: {set(answer.replies)}")
            done()


async def _claimed(consumer: Consumer, many: int) -> list[Lease]:
    leases = list[Lease]()
    while len(leases) < many:
        leases += (await consumer.exchange([], many - len(leases))).leases
    return leases


def _wait(lease: Lease) -> Suspend:
    if int(lease.job_id.removeprefix("job-")) % 2:
        return Suspend(Wait(1, WaitsFor.TIME, "sleep"), After(_DAY))
    return Suspend(Wait(1, WaitsFor.SIGNAL, "go"))


# Measuring


@dataclass(slots=True)
class Taken:
    """What was measured of one store.

    Attributes:
        store: What it is.
        jobs: How many were suspended.
        bytes: By `suspended` and `delayed`, what a job takes.
        times: By what was done, how long it took each time, in ms.
        calls: By what was done, how long the longest call of the server took each time, in ms.
        slow: The calls that took longer than they may: by what was called, ms.
    """

    store: str
    jobs: int
    bytes: dict[str, float] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    calls: dict[str, list[float]] = field(default_factory=dict)
    slow: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, seconds: float, call_ms: float) -> None:
        """Note how long something took."""
        self.times.setdefault(what, []).append(seconds * 1000)
        self.calls.setdefault(what, []).append(call_ms)


class Waiters:
    """Handlers of the suspended jobs, which tell when they went on."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._ran: dict[str, asyncio.Future[float]] = {}
        queue.job(self.waiter)
        queue.job(self.sleeper)

    def expect(self, job_id: str) -> "asyncio.Future[float]":
        """When the job will have gone on after its wait, in seconds since 1970."""
        self._ran[job_id] = asyncio.get_running_loop().create_future()
        return self._ran[job_id]

    async def waiter(self, text: str, context: JobContext) -> None:
        """Wait for the signal."""
        await context.wait_for("go")
        self._tell(context)

    async def sleeper(self, until: float, context: JobContext) -> None:
        """Sleep until a time."""
        await context.sleep(until=datetime.fromtimestamp(until, UTC))
        self._tell(context)

    async def signal(self, job_id: str) -> float:
        """Signal a job; how many seconds it took until its handler went on."""
        told, began = self.expect(job_id), time.time()
        await self._queue.signal(job_id, "go")
        return await asyncio.wait_for(told, _WITHIN) - began

    async def sleep(self, seconds: float) -> float:
        """Let a job sleep; how many seconds after its time its handler went on."""
        until = time.time() + seconds
        told = self.expect((await self._queue.push({"until": until}, "sleeper")).id)
        return await asyncio.wait_for(told, _WITHIN) - until

    def _tell(self, context: JobContext) -> None:
        if (told := self._ran.pop(context.job_id, None)) is not None:
            told.set_result(time.time())


async def look(store: Store, taken: Taken, times: int) -> None:
    """Do with the suspended jobs what producers, workers and operators do, each a number of times."""

    async def timed(
        what: str, call: Callable[[str], Awaitable[object]], many: int = times, first: int = 1
    ) -> None:
        store.longest()
        for at in range(many):
            began = time.perf_counter()
            took = await call(f"job-{at * step + first}")
            seconds = took if isinstance(took, float) else time.perf_counter() - began
            taken.note(what, seconds, store.longest())

    async def walked(what: str, change: Any) -> None:
        after = "to begin"
        while after:
            began = time.perf_counter()
            after = (await driver.change(change)).after
            taken.note(what, time.perf_counter() - began, store.longest())
            change = replace(change, after=after)

    step, few = taken.jobs // times // 2 * 2, times // 5  # jobs of even numbers wait for a signal
    async with JobQueue(store.url, QUEUE) as queue:
        waiters, driver = Waiters(queue), queue.driver
        middle = Scan(State.SUSPENDED, after=await _middle(driver, taken.jobs), limit=100)
        await timed("signal", lambda job: queue.signal(job, "go"), first=0)
        async with working(queue, 100):
            await _idle(queue)
            await timed("signal, until its handler goes on", waiters.signal, few, first=2)
            await timed("due, until its handler goes on", lambda job: waiters.sleep(0.05), few)
        async with aclosing(driver.consumer("looker", lease=600, max_deliveries=3)) as consumer:
            await consumer.open()
            await timed("promote, none due", lambda job: consumer.exchange([], 0))
        await timed("counts", lambda job: queue.control.counts())
        await timed("the first 100 of them", lambda job: queue.control.jobs(State.SUSPENDED, 100), few)
        await timed("100 from the middle", lambda job: driver.read(middle), few)
        await timed("one job", queue.get)
        await timed("why it waits", queue.control.why, few)
        await timed("cancel", queue.cancel, few)
        await walked("tidy, a step", Tidy())
        await walked("doctor, a step", Audit())


async def _middle(driver: Driver, jobs: int) -> str:
    """Where a list of the suspended jobs is at its middle."""
    seen, after = 0, ""
    while seen < jobs // 2:
        step = await driver.read(Scan(State.SUSPENDED, after=after))
        seen, after = seen + len(step.rows), step.after
        if not after:
            break
    return after


async def _idle(queue: JobQueue) -> None:
    """Wait until no job is ready or runs."""
    while (counts := await queue.control.counts()).running + sum([*counts.ready.values()]):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def take(name: str, jobs: int, times: int, say: Callable[[str], object]) -> Taken:
    """Measure a store: what delayed jobs take of one, and another one with as many suspended jobs."""
    with STORES[name]() as store:
        taken = Taken(store.description, jobs)
        uvloop.run(_filled(store, delay, jobs, taken, "delayed"))
    say(f"{taken.store}: {jobs:,} delayed jobs, {number(taken.bytes['delayed'])} bytes each")
    with STORES[name]() as store:
        uvloop.run(_filled(store, suspend, jobs, taken, "suspended"))
        say(f"{taken.store}: {jobs:,} suspended jobs, {number(taken.bytes['suspended'])} bytes each")
        uvloop.run(look(store, taken, times))
        taken.slow = dict(store.slow)
    return taken


Fill = Callable[[Driver, int, Callable[[], object]], Awaitable[None]]


async def _filled(store: Store, fill: Fill, jobs: int, taken: Taken, kind: str) -> None:
    empty, last = store.used(), time.perf_counter()

    def done() -> None:
        nonlocal last
        now = time.perf_counter()
        taken.note(f"{_BATCH} jobs, until they are {kind}", now - last, store.longest())
        last = time.perf_counter()

    async with JobQueue(store.url, QUEUE) as queue:
        await fill(queue.driver, jobs, done)
    taken.bytes[kind] = (store.used() - empty) / jobs


# What is said


def text(taken: Taken) -> str:
    """A table, and the calls that took too long; Markdown."""
    about = (
        f"{taken.store}: {taken.jobs:,} suspended jobs take {number(taken.bytes['suspended'])} bytes each, where "
        f"delayed ones take {number(taken.bytes['delayed'])}."
    )
    rows = []
    for what, took in taken.times.items():
        ordered, calls = sorted(took), taken.calls[what]
        figures = [statistics.median(took), percentile(ordered, 0.99), ordered[-1]]
        figures += [statistics.median(calls), max(calls)]
        rows.append([what, f"{len(took):,}", *map(number, figures)])
    head = ["", "times", "median, ms", "p99, ms", "most, ms", "longest call, median, ms", "of all, ms"]
    said = [
        f"- {len(took):,} of `{called}`, at most {number(max(took))} ms" for called, took in taken.slow.items()
    ]
    if not said:
        return f"{about}\n\n{table(head, rows)}\n\nNo call took over {SLOW:g} ms."
    over = f"Calls over {SLOW:g} ms, by the clock, so the work of other processes is in them:"
    return "\n\n".join([about, table(head, rows), over, "\n".join(said)])


def wrong(taken: Taken) -> list[str]:
    """What made a call that takes too long by itself: as long in half of the cases; in words."""
    return [
        f"{taken.store}, {what}: a call takes {number(statistics.median(calls))} ms, and may take {SLOW:g}"
        for what, calls in taken.calls.items()
        if statistics.median(calls) > SLOW
    ]


# The command


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if a call of the server took too long, or something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suspended", description="A million suspended jobs."
    )
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many are suspended (1,000,000)")
    parser.add_argument("--times", type=int, default=1_000, help="how often each thing is done (1,000)")
    parser.add_argument("--stores", default="redis,postgres", help="on which (redis,postgres)")
    parser.add_argument("--docs", action="store_true", help="put it on the page docs/benchmarks.md")
    options = parser.parse_args(words)
    names = [name for name in options.stores.split(",") if name]
    if unknown := [name for name in names if name not in STORES]:
        parser.error(f"no such store: {', '.join(unknown)}; there are {', '.join(STORES)}")
    if options.times < 5 or options.jobs < 4 * options.times:
        parser.error("--times must be at least 5, and --jobs at least four times --times")
    date, all_taken = datetime.now(UTC).isoformat(timespec="seconds"), list[Taken]()
    try:
        for name in names:
            all_taken.append(take(name, options.jobs, options.times, _say))
            print(text(all_taken[-1]), "\n", flush=True)
    except (Failed, RedisJobsError, TimeoutError) as failed:
        _say(f"failed: {failed!r}")
        return 1
    missed = [line for taken in all_taken for line in wrong(taken)]
    print("\n".join(missed) or f"no call takes {SLOW:g} ms by itself")
    if options.docs:
        head = f"{date}, {report.machine()}. To repeat it: `python -m benchmarks.suspended --docs`."
        attach("suspended", "\n\n".join([head, *map(text, all_taken)]))
    return 1 if missed else 0


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
