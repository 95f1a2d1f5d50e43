"""`python -m benchmarks.flows`: what steps, waits, signals and children cost, beside plain jobs.

Producer and worker share one process, so that the commands of the server are theirs alone. Compare ratios.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import redis
import uvloop

from benchmarks import report
from benchmarks.report import number, ratios, spread, table
from benchmarks.results import attach
from benchmarks.session import SIZE
from redisjobs import JobContext, JobQueue, Worker
from redisjobs.errors import RedisJobsError
from redisjobs.local import server

QUEUE = "flows"
MOST_CALLS = 1.0  # that a step may cost, beside one for the job
_TEXT = "x" * SIZE
_ROUNDING = 0.02  # of a call: those by timers are counted too
_IN_FLIGHT = 100  # signals that are sent at once
_HOLDS = "A step costs at most one call, and a job one more: what has come meanwhile goes together."


@dataclass(frozen=True, slots=True)
class Cost:
    """What some jobs took.

    Attributes:
        seconds: From the start to the end of the last one.
        calls: How many scripts were called.
        server: CPU seconds of the server.
        worker: CPU seconds of the process of producer and worker.
    """

    seconds: float
    calls: float
    server: float
    worker: float


Costs = Mapping[str, Sequence[Cost]]
"""By the name of a case what each round has measured."""


@dataclass(slots=True)
class Place:
    """A queue with handlers that count how many of their jobs have ended.

    Attributes:
        admin: A connection to the server.
        queue: The queue.
    """

    admin: Any
    queue: JobQueue
    _ended: int = 0
    _wanted: int = 0
    _all: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        for handler in (self.plain, self.steps, self.sleeper, self.waiter, self.parent):
            register: Any = self.queue.job(timeout=60)  # their parameters differ
            register(handler)

    def expect(self, many: int) -> None:
        """Count from here, up to this many jobs."""
        self._ended, self._wanted, self._all = 0, many, asyncio.Event()

    def end(self) -> None:
        """One job has ended."""
        self._ended += 1
        if self._ended == self._wanted:
            self._all.set()

    async def all_ended(self) -> None:
        """Wait until all expected jobs have ended."""
        await self._all.wait()

    async def suspended(self, many: int) -> None:
        """Wait until this many jobs are suspended. It calls no script, so that all calls are those of the jobs."""
        while self.admin.zcard(f"redisjobs:{{{QUEUE}}}:suspended") < many:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def plain(self, text: str) -> None:
        """Do nothing."""
        self.end()

    async def steps(self, text: str, many: int, context: JobContext) -> None:
        """Save some steps."""
        for _ in range(many):
            await context.step("one", _one)
        self.end()

    async def sleeper(self, text: str, context: JobContext) -> None:
        """Sleep for the shortest time."""
        await context.sleep(0.001)
        self.end()

    async def waiter(self, text: str, context: JobContext) -> None:
        """Wait for a signal."""
        await context.wait_for("go")
        self.end()

    async def parent(self, many: int, context: JobContext) -> None:
        """Run plain jobs as children."""
        await context.run_all([self.queue.prepare({"text": _TEXT}, "plain") for _ in range(many)])


async def _one() -> int:
    return 1


# Measuring


@asynccontextmanager
async def working(queue: JobQueue, concurrency: int) -> AsyncIterator[None]:
    """A worker that runs meanwhile, and settles what has ended before it goes."""
    worker = Worker(queue, concurrency=concurrency, schedules=False)
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await running


def used(admin: Any) -> tuple[float, float, float]:
    """What was used up to now: script calls, CPU seconds of the server, and of this process."""
    cpu = admin.info("cpu")
    calls = admin.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    return calls, cpu["used_cpu_user"] + cpu["used_cpu_sys"], time.process_time()


async def drain(place: Place, jobs: int, *, name: str, concurrency: int, **parameters: Any) -> Cost:
    """Push jobs of a name, and let a worker run them to their end."""
    await place.queue.push_many([{"text": _TEXT, **parameters}] * jobs, name)
    place.expect(jobs)
    before, began = used(place.admin), time.perf_counter()
    async with working(place.queue, concurrency):
        await place.all_ended()
        seconds = time.perf_counter() - began
    return _cost(place.admin, before, seconds)


async def signalled(place: Place, jobs: int) -> Cost:
    """The same of jobs that wait for a signal, each, once all of them wait."""
    handles = await place.queue.push_many([{"text": _TEXT}] * jobs, "waiter")
    place.expect(jobs)
    before, began = used(place.admin), time.perf_counter()
    async with working(place.queue, 100):
        await place.suspended(jobs)
        todo = iter(handles)

        async def send() -> None:
            for handle in todo:
                await place.queue.signal(handle.id, "go")

        await asyncio.gather(*(send() for _ in range(_IN_FLIGHT)))
        await place.all_ended()
        seconds = time.perf_counter() - began
    return _cost(place.admin, before, seconds)


async def awaited(place: Place, jobs: int, *, group: int, as_children: bool) -> Cost:
    """Groups of plain jobs, one after the other: run by a parent, or pushed and awaited by the producer."""
    async with working(place.queue, 100):
        before, began = used(place.admin), time.perf_counter()
        for _ in range(jobs // group):
            if as_children:
                await (await place.queue.push({"many": group}, "parent", keep_result=60)).result()
            else:
                handles = await place.queue.push_many([{"text": _TEXT}] * group, "plain", keep_result=60)
                await asyncio.gather(*(handle.result() for handle in handles))
        seconds = time.perf_counter() - began
    return _cost(place.admin, before, seconds)


def _cost(admin: Any, before: tuple[float, float, float], seconds: float) -> Cost:
    calls, cpu, own = (after - earlier for after, earlier in zip(used(admin), before, strict=True))
    return Cost(seconds, calls, cpu, own)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        name: Of it, in tables.
        run: Runs a number of its jobs.
        jobs: How many it is given.
        beside: The case that it is compared with; '' for none.
        steps: How many steps each of its jobs saves.
        group: How many of its jobs belong together.
    """

    name: str
    run: Callable[[Place, int], Awaitable[Cost]]
    jobs: int
    beside: str = ""
    steps: int = 0
    group: int = 1


def _cases() -> Sequence[Case]:
    def drained(name: str, concurrency: int, **parameters: Any) -> Callable[[Place, int], Awaitable[Cost]]:
        return partial(drain, name=name, concurrency=concurrency, **parameters)

    def groups(many: int, *, as_children: bool) -> Callable[[Place, int], Awaitable[Cost]]:
        return partial(awaited, group=many, as_children=as_children)

    cases = list[Case]()
    for slots, jobs in ((1, 1_000), (100, 10_000)):
        plain = f"plain, {slots} at once"
        cases.append(Case(plain, drained("plain", slots), jobs))
        for many in (1, 5):
            name = f"{many} step{'s'[: many - 1]}, {slots} at once"
            cases.append(Case(name, drained("steps", slots, many=many), jobs, plain, many))
    plain = "plain, 100 at once"
    cases.append(Case("sleeps for 1 ms, 100 at once", drained("sleeper", 100), 5_000, plain))
    cases.append(Case("waits for a signal, 100 at once", signalled, 5_000, plain))
    for many, jobs in ((10, 500), (1_000, 5_000)):
        plain = f"{many:,} jobs, pushed and awaited"
        cases.append(Case(plain, groups(many, as_children=False), jobs, group=many))
        parent = groups(many, as_children=True)
        cases.append(Case(f"a parent with {many:,} children", parent, jobs, plain, group=many))
    return cases


CASES = _cases()


async def take(url: str, case: Case, jobs: int) -> Cost:
    """Measure a case on an empty server."""
    with redis.Redis.from_url(url) as admin:
        admin.flushall()
        async with JobQueue(url, QUEUE) as queue:
            return await case.run(Place(admin, queue), jobs)


def measure(rounds: int, scale: float, say: Callable[[str], object]) -> dict[str, list[Cost]]:
    """Take all cases, again and again, each round beginning with another one."""
    costs: dict[str, list[Cost]] = {case.name: [] for case in CASES}
    with server.start(options=("--appendonly", "no")) as running:
        for at in range(rounds):
            for case in [*CASES[at % len(CASES) :], *CASES[: at % len(CASES)]]:
                jobs = scaled(case, scale)
                cost = uvloop.run(take(running.url, case, jobs))
                costs[case.name].append(cost)
                say(f"round {at + 1} of {rounds}, {case.name}: {number(jobs / cost.seconds)} jobs/s")
    return costs


def scaled(case: Case, scale: float) -> int:
    """How many jobs a case has; whole groups."""
    return max(int(case.jobs * scale) // case.group, 1) * case.group


# What is said


def text(costs: Costs, scale: float = 1) -> str:
    """A table; Markdown."""
    rows = []
    for case in CASES:
        taken, beside, jobs = costs[case.name], costs.get(case.beside, ()), scaled(case, scale)
        rates = [jobs / cost.seconds for cost in taken]
        other = [_jobs_of(case.beside, scale) / cost.seconds for cost in beside]
        rows.append(
            [
                case.name,
                spread(rates, 1.0),
                spread(ratios(rates, other), 1.0),
                spread([cost.calls / jobs for cost in taken], 1.0),
                spread([cost.server / jobs for cost in taken], 1e6),
                spread([cost.worker / jobs for cost in taken], 1e6),
            ]
        )
    head = ["a job that is", "jobs/s", "by that of plain ones", "script calls a job"]
    return table([*head, "Redis CPU, µs a job", "CPU of producer and worker, µs a job"], rows)


def calls_of_step(costs: Costs, case: Case, scale: float = 1) -> float:
    """How many script calls a step has cost, beside one for its job; the median of the rounds."""
    jobs = scaled(case, scale)
    return max(0.0, statistics.median((cost.calls / jobs - 1) / case.steps for cost in costs[case.name]))


def wrong(costs: Costs, scale: float = 1) -> list[str]:
    """The cases whose steps cost more calls than they may, in words."""
    return [
        f"{case.name}: a step costs {number(found)} calls, and at most {MOST_CALLS:g} is allowed"
        for case in CASES
        if case.steps and (found := calls_of_step(costs, case, scale)) > MOST_CALLS + _ROUNDING
    ]


def _jobs_of(name: str, scale: float) -> int:
    return next((scaled(case, scale) for case in CASES if case.name == name), 0)


# The command


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if a step costs more than a round trip, or a case failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flows", description="Steps, waits and children.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--docs", action="store_true", help="put it on the page docs/benchmarks.md")
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        costs = measure(options.rounds, 1, _say)
    except RedisJobsError as failed:
        _say(f"failed: {failed}")
        return 1
    missed = wrong(costs)
    said = "\n\n".join([text(costs), *(missed or [_HOLDS])])
    print(said)
    if options.docs:
        head = f"{date}, {options.rounds} rounds, {report.machine()}, {server.find().description}."
        attach("flows", f"{head} To repeat it: `python -m benchmarks.flows --docs`.\n\n{said}")
    return 1 if missed else 0


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
