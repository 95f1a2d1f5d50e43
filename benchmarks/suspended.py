"""`python -m benchmarks.suspended`: a million suspended jobs. Half sleep for a day, half wait for a signal.

What they take of memory, how long it takes to wake one, and the longest calls of the server meanwhile.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg
import redis
import uvloop

from benchmarks import report
from benchmarks.__main__ import attach
from benchmarks.flows import working
from benchmarks.report import number, table
from benchmarks.session import SIZE
from benchmarks.systems import Failed
from benchmarks.waiters import percentile
from redisjobs import JobContext, JobQueue, Reply, State, postgres_server, server
from redisjobs.drivers.postgres import schema
from redisjobs.drivers.redis import scripts
from redisjobs.errors import RedisJobsError
from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.queries import Scan
from redisjobs.model.transitions import After, Lease, NewJob, Suspend, Wait, WaitsFor

QUEUE = "suspended"
SLOW = 20.0  # ms that no call of the server may take
_DAY = 86_400_000  # ms
_BATCH = 240  # that a worker suspends by one call, at most: it counts 8 kB and the entry for each, up to 2 MB
_TEXT = f'{{"text":"{"x" * SIZE}"}}'


class Store(Protocol):
    """A server with nothing on it."""

    url: str
    description: str

    def used(self) -> float:
        """Bytes of all that is stored."""

    def slow(self) -> list[tuple[str, float]]:
        """The calls that took longer than they may since this was asked last: what was called, and ms."""


@dataclass(slots=True)
class OnRedis:
    """A Redis server."""

    url: str
    description: str
    _admin: Any = field(init=False)

    def __post_init__(self) -> None:
        self._admin = redis.Redis.from_url(self.url)
        self._admin.config_set("slowlog-log-slower-than", int(SLOW * 1000))
        self._admin.config_set("slowlog-max-len", 10_000)

    def used(self) -> float:
        """Bytes of all that is stored."""
        return float(self._admin.info("memory")["used_memory"])

    def slow(self) -> list[tuple[str, float]]:
        """The calls that took longer than they may since this was asked last."""
        calls = self._admin.slowlog_get(10_000)
        self._admin.slowlog_reset()
        return [(_called(call["command"].decode(errors="replace")), call["duration"] / 1000) for call in calls]


_SCRIPTS = {scripts.script(name).sha: name for name in scripts.names()}


def _called(command: str) -> str:
    """The name of the script that a command calls; else of the command."""
    name, sha, *_ = [*command.split(" ", 2), "", ""]
    return _SCRIPTS.get(sha, name)


@dataclass(slots=True)
class OnPostgres:
    """A PostgreSQL server with the tables of redisjobs."""

    url: str
    description: str
    running: Any
    _read: int = 0  # of its log

    def __post_init__(self) -> None:
        for _ in schema.migrate(self.url):
            pass

    def used(self) -> float:
        """Bytes of all tables and indexes."""
        asked = "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' and oid >= 16384"
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(asked).fetchone()
        return float(row[0]) if row else 0.0

    def slow(self) -> list[tuple[str, float]]:
        """The statements that took longer than they may since this was asked last."""
        with open(self.running.directory / "server.log", "rb") as log:
            log.seek(self._read)
            lines, self._read = log.read().decode(errors="replace").splitlines(), log.tell()
        found = (line.partition("duration: ")[2].partition(" ms  ") for line in lines if "duration: " in line)
        return [(said.partition(": ")[2][:90], float(took)) for took, _, said in found]


@contextmanager
def on_redis() -> Iterator[Store]:
    """A Redis server without a disk."""
    with server.start(options=("--appendonly", "no")) as running:
        yield OnRedis(running.url, running.description)


@contextmanager
def on_postgres() -> Iterator[Store]:
    """A PostgreSQL server that does not wait for its disk."""
    settings = ("shared_buffers=256MB", "max_wal_size=4GB", f"log_min_duration_statement={SLOW:g}")
    options = [word for option in settings for word in ("-c", option)]
    with postgres_server.start(options=options, durable=False) as running:
        yield OnPostgres(running.url, f"{running.description}, fsync off", running)


STORES = {"redis": on_redis, "postgres": on_postgres}


# Filling


def _job(number_of: int, due: After | None = None) -> NewJob:
    return NewJob(f"job-{number_of}", ["name", "waiter", "parameters", _TEXT], due=due)


async def delay(driver: Driver, many: int) -> None:
    """Push jobs that are due in a day."""
    for first in range(0, many, _BATCH):
        await driver.push(
            [_job(at, After(_DAY)) for at in range(first, min(first + _BATCH, many))], repeated=False
        )


async def suspend(driver: Driver, many: int) -> None:
    """Suspend jobs as a worker does: those of even numbers wait for a signal, the others sleep for a day."""
    async with aclosing(driver.consumer("filler", lease=600, max_deliveries=3)) as consumer:
        await consumer.open()
        for first in range(0, many, _BATCH):
            await driver.push([_job(at) for at in range(first, min(first + _BATCH, many))], repeated=False)
            leases = await _claimed(consumer, min(_BATCH, many - first))
            answer = await consumer.exchange([(lease, _wait(lease)) for lease in leases], None)
            if set(answer.replies) != {Reply.OK}:
                raise Failed(f"jobs were not suspended: {set(answer.replies)}")


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
        filled: How many were suspended a second.
        times: By what was done, how long it took each time, in ms.
        slow: The calls that took longer than they may, by what was done: what was called, and ms.
    """

    store: str
    jobs: int
    bytes: dict[str, float] = field(default_factory=dict)
    filled: float = 0.0
    times: dict[str, list[float]] = field(default_factory=dict)
    slow: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


class Waiters:
    """Handlers of the suspended jobs, which tell when they went on."""

    def __init__(self, queue: JobQueue) -> None:
        self.ran: dict[str, asyncio.Future[float]] = {}
        queue.job(self.waiter)
        queue.job(self.sleeper)

    def expect(self, job_id: str) -> "asyncio.Future[float]":
        """When the job will have gone on after its wait, in seconds since 1970."""
        self.ran[job_id] = asyncio.get_running_loop().create_future()
        return self.ran[job_id]

    async def waiter(self, text: str, context: JobContext) -> None:
        """Wait for the signal."""
        await context.wait_for("go")
        self._tell(context)

    async def sleeper(self, until: float, context: JobContext) -> None:
        """Sleep until a time."""
        await context.sleep(until=datetime.fromtimestamp(until, UTC))
        self._tell(context)

    def _tell(self, context: JobContext) -> None:
        if (told := self.ran.pop(context.job_id, None)) is not None:
            told.set_result(time.time())


async def look(store: Store, taken: Taken, times: int) -> None:
    """Do with the suspended jobs what producers, workers and operators do, so often each."""

    @asynccontextmanager
    async def noted(what: str) -> AsyncIterator[list[float]]:
        store.slow()
        took = taken.times.setdefault(what, [])
        yield took
        if slow := store.slow():
            taken.slow[what] = slow

    async def timed(what: str, call: Callable[[int], Awaitable[object]], many: int = times) -> None:
        async with noted(what) as took:
            for at in range(many):
                began = time.perf_counter()
                await call(at)
                took.append((time.perf_counter() - began) * 1000)

    async with JobQueue(store.url, QUEUE) as queue:
        waiters, driver = Waiters(queue), queue.driver
        middle = await _middle(driver, taken.jobs)
        step = max(taken.jobs // times // 2, 1) * 2  # jobs of even numbers wait for a signal
        await timed("signal", lambda at: queue.signal(f"job-{at * step}", "go"))
        async with working(queue, 100), noted("signal, until its handler goes on") as took:
            await _idle(queue)
            for at in range(times // 5):
                job_id = f"job-{at * step * 5 + 2}"
                told, began = waiters.expect(job_id), time.time()
                await queue.signal(job_id, "go")
                took.append((await told - began) * 1000)
        async with working(queue, 100), noted("due, until its handler goes on") as took:
            for _ in range(times // 5):
                until = time.time() + 0.05
                told = waiters.expect((await queue.push({"until": until}, "sleeper")).id)
                took.append((await told - until) * 1000)
        async with aclosing(driver.consumer("looker", lease=600, max_deliveries=3)) as consumer:
            await consumer.open()
            await timed("promote, none due", lambda at: consumer.exchange([], 0))
        await timed("counts", lambda at: queue.counts())
        await timed("the first 100 of them", lambda at: queue.jobs(State.SUSPENDED, 100), times // 5)
        page = Scan(State.SUSPENDED, after=middle, limit=100)
        await timed("100 from the middle", lambda at: driver.read(page), times // 5)
        await timed("one job", lambda at: queue.get(f"job-{at * step + 1}"))
        await timed("why it waits", lambda at: queue.why(f"job-{at * step + 1}"), times // 5)
        await timed("cancel", lambda at: queue.cancel(f"job-{at * step + 1}"), times // 5)
        await timed("tidy", lambda at: _tidy(driver), 1)
        await timed("doctor", lambda at: queue.doctor(), 1)


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
    while (counts := await queue.counts()).running + sum([*counts.ready.values()]):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def _tidy(driver: Driver) -> None:
    tidied = await driver.change(Tidy())
    while tidied.after:
        tidied = await driver.change(Tidy(tidied.after))


def take(name: str, jobs: int, times: int, say: Callable[[str], object]) -> Taken:
    """Measure a store: first beside as many delayed jobs, then with the suspended ones."""
    fills: Mapping[str, Callable[[Driver, int], Awaitable[None]]] = {"delayed": delay, "suspended": suspend}
    for kind, fill in fills.items():
        with STORES[name]() as store:
            if kind == "delayed":
                taken = Taken(store.description, jobs)
            empty, began = store.used(), time.perf_counter()
            uvloop.run(_filled(store.url, fill, jobs))
            taken.filled = jobs / (time.perf_counter() - began)
            taken.bytes[kind] = (store.used() - empty) / jobs
            say(f"{store.description}: {jobs:,} jobs {kind}, {number(taken.bytes[kind])} bytes each")
            if slow := store.slow():
                taken.slow[f"filling: {kind}"] = slow
            if kind == "suspended":
                uvloop.run(look(store, taken, times))
    return taken


async def _filled(url: str, fill: Callable[[Driver, int], Awaitable[None]], jobs: int) -> None:
    async with JobQueue(url, QUEUE) as queue:
        await fill(queue.driver, jobs)


# What is said


def text(taken: Taken) -> str:
    """A table, and the calls that took too long; Markdown."""
    about = (
        f"{taken.store}: {taken.jobs:,} suspended jobs take {number(taken.bytes['suspended'])} bytes each, where "
        f"delayed ones take {number(taken.bytes['delayed'])}. {number(taken.filled)} a second were pushed, "
        "claimed and suspended."
    )
    rows = []
    for what, took in taken.times.items():
        ordered = sorted(took)
        figures = [statistics.median(took), percentile(ordered, 0.99), ordered[-1]]
        rows.append([what, f"{len(took):,}", *map(number, figures), str(len(taken.slow.get(what, ())))])
    head = ["", "times", "median, ms", "p99, ms", "most, ms", f"calls over {SLOW:g} ms"]
    said = [
        f"- {what}: {len(took)} of `{called}`, at most {number(max(took))} ms"
        for what, calls in taken.slow.items()
        for called, took in _by_call(calls).items()
    ]
    return "\n\n".join([about, table(head, rows), "\n".join(said) or f"No call took over {SLOW:g} ms."])


def _by_call(calls: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for called, took in calls:
        found.setdefault(called, []).append(took)
    return found


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
    if options.times < 5 or options.jobs < 2 * options.times:
        parser.error("--times must be at least 5, and --jobs at least twice --times")
    date, all_taken = datetime.now(UTC).isoformat(timespec="seconds"), list[Taken]()
    try:
        for name in names:
            all_taken.append(take(name, options.jobs, options.times, _say))
            print(text(all_taken[-1]), "\n", flush=True)
    except (Failed, RedisJobsError) as failed:
        _say(f"failed: {failed}")
        return 1
    if options.docs:
        head = f"{date}, {report.machine()}. To repeat it: `python -m benchmarks.suspended --docs`."
        attach("suspended", "\n\n".join([head, *map(text, all_taken)]))
    return 1 if any(taken.slow for taken in all_taken) else 0


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
