"""`python -m benchmarks.starts`: which jobs start first, by priority and in strict order of queues.

Each row counts jobs that started before one that goes first, in slots that were free after the push of that one.
"""

import argparse
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import anyio

from redisjobs import JobQueue, Priority, Worker
from redisjobs.local import server


@dataclass
class Work:
    """A job that takes some time."""

    job_name: ClassVar[str] = "work"
    label: str = ""
    seconds: float = 0.0


@dataclass
class Starts:
    """What has started, in order; and how many run."""

    labels: list[str] = field(default_factory=list)
    running: int = 0

    def handle(self, queue: JobQueue) -> JobQueue:
        """Register the handler of a queue."""

        @queue.register(Work)
        async def work(job: Work) -> None:
            self.labels.append(job.label)
            self.running += 1
            try:
                await anyio.sleep(job.seconds)
            finally:
                self.running -= 1

        return queue

    async def until(self, label: str, slots: int = 0) -> int:
        """Wait until a job has started; how many others did before it, in slots that are free from now on."""
        since, free = len(self.labels), slots - self.running
        while label not in self.labels:  # noqa: ASYNC110  (an event for each job would cost as much as it)
            await anyio.sleep(0.0005)
        return max(0, self.labels.index(label) - since - free)


async def _push(queue: JobQueue, label: str, count: int, seconds: float, priority: Priority) -> None:
    for start in range(0, count, 500):
        await queue.push_many([Work(label, seconds)] * min(500, count - start), priority=priority)


@asynccontextmanager
async def _working(workers: Sequence[Worker]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(worker.run)
        yield
        for worker in workers:
            worker.stop_now()


async def _by_priority(url: str, rounds: int, *, workers: int, slots: int, seconds: float) -> str:
    starts = Starts()
    async with starts.handle(JobQueue(url, f"starts-{time.time_ns()}")) as queue:
        await _push(queue, "low", int(workers * slots * rounds * 0.25 / seconds), seconds, Priority.LOW)
        passed = list[int]()
        async with _working([Worker(queue, concurrency=slots) for _ in range(workers)]):
            await starts.until("low")
            for number in range(rounds):
                await anyio.sleep(0.13 + 0.007 * (number % 5))
                await queue.push(Work(f"high {number}", seconds), priority=Priority.HIGH)
                passed.append(await starts.until(f"high {number}", workers * slots))
        return _said(passed)


async def _in_strict_order(url: str, rounds: int, *, seconds: float) -> str:
    starts = Starts()
    names = [f"starts-{time.time_ns()}-{name}" for name in ("critical", "bulk")]
    async with AsyncExitStack() as stack:
        critical, bulk = [await stack.enter_async_context(starts.handle(JobQueue(url, name))) for name in names]
        await _push(bulk, "bulk", int(10 * rounds * 0.25 / seconds), seconds, Priority.NORMAL)
        passed = list[int]()
        async with _working([Worker([critical, bulk], concurrency=10, strict=True)]):
            await starts.until("bulk")
            for number in range(rounds):
                await anyio.sleep(0.13 + 0.007 * (number % 5))
                await critical.push(Work(f"critical {number}", seconds))
                passed.append(await starts.until(f"critical {number}", 10))
        return _said(passed)


async def _long_ones(url: str, rounds: int) -> str:
    """The first queue is never without jobs of 0.1 s; those of the second take an hour."""
    starts = Starts()
    names = [f"starts-{time.time_ns()}-{name}" for name in ("critical", "bulk")]
    async with AsyncExitStack() as stack:
        critical, bulk = [await stack.enter_async_context(starts.handle(JobQueue(url, name))) for name in names]
        await _push(critical, "critical", 100 * rounds + 100, 0.1, Priority.NORMAL)
        await _push(bulk, "bulk", 20, 3600, Priority.NORMAL)
        async with _working([Worker([critical, bulk], concurrency=10, strict=True)]):
            await anyio.sleep(rounds)
        return f"{starts.labels.count('bulk')}"


def _said(passed: Sequence[int]) -> str:
    return f"{sum(passed)} (at most {max(passed)})"


_ROWS: dict[str, Callable[[str, int], Awaitable[str]]] = {
    "priority, 17 slots, 100 ms jobs": lambda url, n: _by_priority(url, n, workers=1, slots=17, seconds=0.1),
    "priority, 50 slots, 10 ms jobs": lambda url, n: _by_priority(url, n, workers=1, slots=50, seconds=0.01),
    "priority, 3 workers of 6 slots, 100 ms jobs": lambda url, n: _by_priority(
        url, n, workers=3, slots=6, seconds=0.1
    ),
    "strict, 10 slots, 100 ms jobs": lambda url, n: _in_strict_order(url, n, seconds=0.1),
    "strict, 10 slots, 10 ms jobs": lambda url, n: _in_strict_order(url, n, seconds=0.01),
    "strict, 10 slots, jobs of an hour beside 100 ms jobs": _long_ones,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="jobs that go first (20); for the last row seconds")
    rounds = parser.parse_args().rounds
    with (
        server.start(server.find(prefer=("redis-server",))) as redis,
        server.start(server.find(prefer=("valkey-server",))) as valkey,
    ):
        stores = {"memory": "memory://", **{each.description: each.url for each in (redis, valkey)}}
        print(f"| jobs that started too soon, of {rounds} that go first | {' | '.join(stores)} |")
        print("|---|" + "---:|" * len(stores))
        for name, row in _ROWS.items():
            said = [anyio.run(row, url, rounds) for url in stores.values()]
            print(f"| {name} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
