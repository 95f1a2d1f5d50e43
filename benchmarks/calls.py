"""`--growth`, third part: the longest call of the server, where there is much of something.

The server serves no other client while a call runs. So each case asks for one thing where it costs most. What
counts is the longest of its calls, as the server's own log of calls (SLOWLOG) has it. That includes the time in
which other processes have the CPU.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import redis

from benchmarks.report import number, table
from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.local import server
from redisjobs.model.changes import GetStatus, Tidy
from redisjobs.model.driver import Consumer
from redisjobs.model.job import OnConflict, State
from redisjobs.model.queries import Count, FindLimits, Scan
from redisjobs.model.stored import Fire, Firing
from redisjobs.model.transitions import MOST_JOBS, Ack, Lease, NewJob, ReportProgress, Settlement

LINES, WORKERS, WAITERS = 50_000, 5_000, 100
LARGE, MANY = 500_000, 500  # bytes of a large job, and how many there are
_ROUNDS = 3  # of each case; the one counts that the machine disturbed least
_OURS = (b"SLOWLOG", b"CONFIG", b"INFO", b"HDEL redisjobs:{calls}:layout")  # what the measuring itself asks

T = TypeVar("T")
Act = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Place:
    """A queue on a server that no one else uses.

    Attributes:
        admin: A connection to the server.
        driver: Of the queue.
        prefix: Of its keys.
    """

    admin: redis.Redis
    driver: RedisDriver
    prefix: str = field(default="redisjobs:{calls}:")

    @property
    def stream(self) -> str:
        """Where the jobs of this page are."""
        return f"{self.prefix}ready:normal"

    async def push(self, jobs: Sequence[NewJob]) -> None:
        """Push jobs, some at a time."""
        size = 1 if len(jobs[0].fields[3]) > 100_000 else MOST_JOBS
        for some in _batched(jobs, size):
            await self.driver.push(some, repeated=False)

    @asynccontextmanager
    async def worker(self, name: str = "one") -> AsyncIterator[Consumer]:
        """A worker that has joined."""
        consumer = self.driver.consumer(name, lease=600, max_deliveries=3)
        await consumer.open()
        try:
            yield consumer
        finally:
            await consumer.aclose()

    def entries(self, many: int) -> list[str]:
        """Add small jobs; their entries."""
        pipeline = self.admin.pipeline(transaction=False)
        for i in range(many):
            pipeline.xadd(self.stream, {"id": f"small-{i}", "name": "name", "parameters": "{}"})
        entries = [entry.decode() for entry in pipeline.execute()]
        for i, entry in enumerate(entries):
            pipeline.hset(f"{self.prefix}jobs", f"small-{i}", f"normal {entry}")
        pipeline.execute()
        return entries

    def deliver(self, entries: Sequence[str], to: Callable[[int], str]) -> None:
        """Have each of these pending for a consumer of its own."""
        pipeline = self.admin.pipeline(transaction=False)
        for i, entry in enumerate(entries):
            pipeline.xclaim(self.stream, "workers", to(i), 0, [entry], force=True, justid=True)
        pipeline.execute()
        if entries:
            self.admin.xgroup_setid(self.stream, "workers", entries[-1])

    def lines(self, many: int) -> None:
        """Make waiting lines, each with one job."""
        self.deliver(self.entries(many), lambda i: f"line:name key-{i}")
        self.admin.zadd(f"{self.prefix}lines", {f"name key-{i}": 0 for i in range(many)})
        self.admin.hset(f"{self.prefix}limits", "name", "max_concurrency=1")

    def workers(self, many: int) -> None:
        """Make workers, each with one job."""
        self.deliver(self.entries(many), lambda i: f"worker-{i}")
        pipeline = self.admin.pipeline(transaction=False)
        for i in range(many):
            pipeline.hset(f"{self.prefix}worker:worker-{i}", mapping={"run": "run", "lease_ms": 15_000})
        pipeline.zadd(f"{self.prefix}workers", {f"worker-{i}": 4e12 for i in range(many)})
        pipeline.execute()


def _batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _job(job_id: str, size: int, unique: str = "", **more: Any) -> NewJob:
    return NewJob(job_id, ["name", "name", "parameters", "x" * size], unique=unique, **more)


def _large(prefix: str, *, unique: bool = False) -> list[NewJob]:
    return [_job(f"{prefix}-{i}", LARGE, f"key-{i}" if unique else "", nonce="first") for i in range(MANY)]


async def _push_known(place: Place) -> Act:
    await place.push(_large("job"))
    again = [_job(f"job-{i}", 10, nonce="second") for i in range(MANY)]
    return lambda: place.driver.push(again, repeated=False)


async def _push_replaces(place: Place) -> Act:
    await place.push(_large("job", unique=True))
    new = [_job(f"next-{i}", 10, f"key-{i}", nonce="second", on_conflict=OnConflict.REPLACE) for i in range(MANY)]
    return lambda: place.driver.push(new, repeated=False)


async def _push_held(place: Place) -> Act:
    await place.push(_large("job", unique=True))
    async with place.worker() as consumer:
        await _claim(consumer, MANY)
    new = [_job(f"next-{i}", 10, f"key-{i}", nonce="second") for i in range(MANY)]
    return lambda: place.driver.push(new, repeated=False)


async def _claim(consumer: Consumer, many: int) -> list[Lease]:
    leases: list[Lease] = []
    while len(leases) < many:
        leases += (await consumer.exchange([], many - len(leases))).leases
    return leases


async def _fires(place: Place) -> Act:
    await place.push(_large("job", unique=True))
    pipeline = place.admin.pipeline(transaction=False)
    for i in range(MANY):
        pipeline.hset(f"{place.prefix}schedules", f"s-{i}", "1")
        pipeline.hset(f"{place.prefix}schedule:s-{i}", mapping={"fingerprint": "f", "rule": "r"})
    pipeline.execute()
    firings = [
        Firing(f"s-{i}", "f", 1, 2, 0, [_job(f"s-{i}@2", 10, f"key-{i}", on_conflict=OnConflict.REPLACE)])
        for i in range(MANY)
    ]

    async def act() -> None:
        left = firings
        while left:
            left = left[len((await place.driver.change(Fire("one", left))).fired) :]

    return act


async def _follow_ups(place: Place, *, unique: bool, running: bool = False) -> Act:
    await place.push([_job("parent", 10)])
    consumer = place.driver.consumer("one", lease=600, max_deliveries=3)
    await consumer.open()
    (parent,) = await _claim(consumer, 1)
    await place.push(_large("job", unique=unique))
    if running:
        await _claim(consumer, MANY)
    conflict = OnConflict.SKIP if running else OnConflict.REPLACE

    async def act() -> None:
        if unique:
            pushes = [_job(f"new-{i}", 10, f"key-{i}", on_conflict=conflict) for i in range(MANY)]
        else:
            pushes = [_job(f"job-{i}", 10) for i in range(MANY)]
        answer = await consumer.exchange([(parent, Ack(pushes=pushes))], None)
        assert [*answer.replies] == ["OK"], answer
        assert not any(answer.added[0])

    return act


async def _push_awaited(place: Place) -> None:
    await place.push([_job(f"job-{i}", 10) for i in range(MANY)])
    names = [f"{10_000 + i}-{'f' * 16}" for i in range(WAITERS)]
    for i in range(MANY):  # no two jobs have them in the same order
        place.admin.hset(f"{place.prefix}waiters", f"job-{i}", " ".join(names[i % 100 :] + names[: i % 100]))


async def _settles_awaited(place: Place, settlement: Settlement) -> Act:
    consumer = place.driver.consumer("one", lease=600, max_deliveries=3)
    await consumer.open()
    await _push_awaited(place)
    leases = await _claim(consumer, MANY)
    return lambda: consumer.exchange([(lease, settlement) for lease in leases], None)


async def _asks(place: Place) -> Act:
    await _push_awaited(place)
    return lambda: place.driver.change(GetStatus([f"job-{i}" for i in range(MANY)], "another"))


async def _scans(place: Place, *, workers: int, lines: int) -> Act:
    async with place.worker():
        pass
    place.workers(workers)
    if lines:
        place.lines(lines)

    async def act() -> None:
        after, found = "", 0
        while True:
            step = await place.driver.read(Scan(State.RUNNING, after=after))
            found, after = found + len(step.rows), step.after
            if not after:
                break
        assert found == workers, found

    return act


async def _looks(place: Place, query: Any, *, workers: int, lines: int) -> Act:
    async with place.worker():
        pass
    place.workers(workers)
    if lines:
        place.lines(lines)
    return lambda: place.driver.read(query)


async def _finds_limits(place: Place) -> Act:
    await _looks(place, Count(), workers=100, lines=LINES)

    async def act() -> None:
        after = ""
        for _ in range(5):  # of 100 steps
            after = (await place.driver.read(FindLimits(after))).after

    return act


async def _joins(place: Place) -> Act:
    await _looks(place, Count(), workers=100, lines=LINES)

    async def act() -> None:
        async with place.worker("another"):
            pass

    return act


async def _tidies(place: Place, *, workers: int, lines: int) -> Act:
    await _looks(place, Count(), workers=workers, lines=lines)

    async def act() -> None:
        place.admin.hdel(f"{place.prefix}layout", "tidied_at")
        tidied = await place.driver.change(Tidy())
        while tidied.after:
            tidied = await place.driver.change(Tidy(tidied.after))

    return act


async def _reclaims(place: Place) -> Act:
    await _looks(place, Count(), workers=WORKERS, lines=LINES)
    consumer = place.driver.consumer("another", lease=600, max_deliveries=3)
    await consumer.open()
    return lambda: consumer.reclaim(others=True)


CASES: dict[str, tuple[str, Callable[[Place], Awaitable[Act]]]] = {
    "push ids that are there": ("500 x 500 kB", _push_known),
    "push, replacing": ("500 x 500 kB", _push_replaces),
    "push, keys held by running jobs": ("500 x 500 kB", _push_held),
    "fire, replacing": ("500 x 500 kB", _fires),
    "settle, follow-ups of ids that are there": ("500 x 500 kB", lambda place: _follow_ups(place, unique=False)),
    "settle, follow-ups that replace": ("500 x 500 kB", lambda place: _follow_ups(place, unique=True)),
    "settle, follow-ups whose keys are held": (
        "500 x 500 kB",
        lambda place: _follow_ups(place, unique=True, running=True),
    ),
    "settle jobs that are waited for": ("500 x 100 processes", lambda place: _settles_awaited(place, Ack())),
    "note the progress of jobs that are waited for": (
        "500 x 100 processes",
        lambda place: _settles_awaited(place, ReportProgress(b"{}")),
    ),
    "ask about jobs": ("500 x 100 processes", _asks),
    "scan running": ("5,000 workers, 50,000 lines", lambda p: _scans(p, workers=WORKERS, lines=LINES)),
    "scan running, few lines": ("5,000 workers, 3,000 lines", lambda p: _scans(p, workers=WORKERS, lines=3_000)),
    "counts": ("5,000 workers, 50,000 lines", lambda p: _looks(p, Count(), workers=WORKERS, lines=LINES)),
    "limits": ("50,000 lines", _finds_limits),
    "join": ("50,000 lines", _joins),
    "tidy": ("5,000 workers, 50,000 lines", lambda p: _tidies(p, workers=WORKERS, lines=LINES)),
    "reclaim, counting": ("5,000 workers, 50,000 lines", _reclaims),
}


def report(binary: server.Binary | None = None, only: str = "") -> str:
    """Measure all of it; Markdown."""
    rows = []
    with server.start(binary) as running, redis.Redis.from_url(running.url) as admin:
        for what, (how_much, prepare) in CASES.items():
            if only not in f"{what} {how_much}":
                continue
            rows.append([what, how_much, *map(number, anyio.run(_measured, running.url, admin, prepare))])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return table(["what", "how much", "script calls", "Redis CPU of one, ms", "the longest, ms"], rows)


async def _measured(
    url: str, admin: redis.Redis, prepare: Callable[[Place], Awaitable[Act]]
) -> tuple[int, float, float]:
    """How many calls there were, the server's CPU of one, and the longest, in ms, of the quietest round."""
    rounds = []
    for _ in range(_ROUNDS):
        admin.flushall()
        for name in scripts.names():
            admin.script_load(scripts.script(name).source)
        driver = RedisDriver(url, "calls")
        act = await prepare(Place(admin, driver))
        admin.config_set("slowlog-max-len", 100_000)
        admin.config_set("slowlog-log-slower-than", 0)
        admin.slowlog_reset()
        before = _cpu(admin)
        await act()
        cpu = _cpu(admin) - before
        admin.config_set("slowlog-log-slower-than", -1)
        calls = [call for call in admin.slowlog_get(100_000) if not call["command"].startswith(_OURS)]
        many = sum(call["command"].startswith(b"EVALSHA") for call in calls)
        rounds.append((many, cpu * 1000 / many, max(int(call["duration"]) for call in calls) / 1000))
        await driver.aclose()
    return min(rounds, key=lambda each: each[2])


def _cpu(admin: redis.Redis) -> float:
    used = admin.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
