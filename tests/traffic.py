"""Traffic of a queue with everything in flight at once, and what became of it."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from store import eventually

import redisjobs.sync
from redisjobs import (
    JobContext,
    JobQueue,
    PushOptions,
    Schedule,
    Snooze,
    Worker,
    exponential_jitter,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_EVERY = 0.02  # seconds between two pushes of a producer
_LEFT = 20.0  # seconds that all that was pushed may take to end after the fault
TICK = 1.0
"""Seconds between two slots of the schedule."""

LOOKS = 8
"""How often `looks_while_busy` looks."""

UNSENT = 0.1
"""Seconds before a primary stops: what it answers then is lost if it has sent it to no replica."""


@dataclass
class Step:
    """A job: its number says what it does besides running."""

    job_name: ClassVar[str] = "Step"
    number: int = 0

    @property
    def pushes(self) -> bool:
        """Whether it pushes a follow-up."""
        return self.number % 5 == 1

    @property
    def delay(self) -> float:
        """Seconds after which it may run."""
        return 0.2 if self.number % 5 == 2 else 0


@dataclass
class Limited:
    job_name: ClassVar[str] = "Limited"
    key: int = 0


@dataclass
class Watched:
    job_name: ClassVar[str] = "Watched"
    reports: int = 4


@dataclass
class Tick:
    job_name: ClassVar[str] = "Tick"


@dataclass
class Seen:
    """What happened to the traffic.

    Attributes:
        pushed: When each push returned, by job, and the same time for the follow-up of that job.
        unsent: From when till when a push may return, and yet be lost: the primary stopped, and a replica has not
            taken over.
        failed: Errors of producers, waiters and watchers, each with the job that it is about, if there is one.
        starts: When each run began, by job.
        waited: How many waits for a result have returned it.
        watched: How many watches have seen the last report.
        over: How often more jobs of a key ran at once than the limit allows.
        left: How many jobs had not ended at the end, or were dead.
    """

    pushed: dict[str, float] = field(default_factory=dict)
    unsent: tuple[float, float] = (0, 0)
    failed: list[tuple[str, str]] = field(default_factory=list)
    starts: list[tuple[float, str]] = field(default_factory=list)
    waited: int = 0
    watched: int = 0
    over: int = 0
    left: int = -1

    def push(self, job_id: str) -> None:
        """Note a job whose push has returned."""
        self.pushed[job_id] = time.monotonic()

    @property
    def lost(self) -> set[str]:
        """The jobs that did not run, though a replica must have had them."""
        missing = self.pushed.keys() - {job_id for _, job_id in self.starts}
        return {job_id for job_id in missing if not self._may_be_lost(job_id)}

    @property
    def errors(self) -> list[str]:
        """The errors, but those about a job that replication may have lost."""
        return [text for text, job_id in self.failed if not self._may_be_lost(job_id)]

    def _may_be_lost(self, job_id: str) -> bool:
        stopped, replaced = self.unsent
        return stopped - UNSENT < self.pushed.get(job_id, -UNSENT) < replaced

    @property
    def ran_twice(self) -> list[str]:
        counted = Counter(job_id for _, job_id in self.starts)
        return [job_id for job_id, runs in counted.items() if runs > 1]

    def has_ticked(self, since: float) -> bool:
        """Whether a job of the schedule has begun since then."""
        return any(at > since and job_id.startswith("Tick@") for at, job_id in self.starts)

    def runs_again(self, since: float) -> bool:
        """Whether jobs begin half a second after a fault was over."""
        return self.starts[-1][0] > since + 0.5

    @property
    def wrong(self) -> list[str]:
        """What may not be, in words."""
        wrong = [*self.errors, *(f"{job_id} was lost" for job_id in self.lost)]
        wrong += [f"{self.left} jobs have not ended"] * (self.left != 0)
        return wrong + [f"the limit was exceeded {self.over} times"] * (self.over > 0)

    def told(self, began: float, end: float) -> str:
        """Return a line of the fault table."""
        return (
            f"gap {self.gap(began, end):.2f} s, jobs {len(self.pushed)}, lost {len(self.lost)}, errors "
            f"{len(self.errors)}, ran twice {len(self.ran_twice)}, waits {self.waited}, watches {self.watched}"
        )

    def gap(self, began: float, end: float) -> float:
        """Return the longest time in which no job began."""
        return longest_gap([at for at, _ in self.starts], began, end)


def longest_gap(times: Sequence[float], began: float, end: float) -> float:
    """Return the longest time between two neighbours of those in between."""
    those = [began, *sorted(at for at in times if began < at < end), end]
    return max(later - sooner for sooner, later in itertools.pairwise(those))


class Traffic:
    """Two workers of one queue, producers, waits for results, watches, a schedule and a limit."""

    def __init__(self, where: Any, queue_name: str, *, lease: float = 15) -> None:
        self.where, self.queue_name = where, queue_name
        self.seen = Seen()
        self.queue = JobQueue(where, queue_name)
        self._queues: list[JobQueue] = []
        self.workers = [self._worker(f"w{number}", lease) for number in range(2)]
        self._running: Counter[int] = Counter()
        self._stop = threading.Event()
        self._numbers = iter(range(10**9))

    def _worker(self, worker_id: str, lease: float) -> Worker:
        queue, seen = JobQueue(self.where, self.queue_name), self.seen
        self._queues.append(queue)

        @queue.register(Step, keep_result=60)
        async def step(job: Step, context: JobContext) -> int:
            self._began(context)
            if job.pushes:
                follow_up = f"{context.job_id}-after"
                context.push(Step(), job_id=follow_up)
            return job.number

        @queue.register(Limited, max_concurrency=1, limit_key=lambda job: job.key)
        async def limited(job: Limited, context: JobContext) -> None:
            self._began(context)
            self._running[job.key] += 1
            seen.over += self._running[job.key] > 1
            await anyio.sleep(0.002)
            self._running[job.key] -= 1

        @queue.register(Watched)
        async def watched(job: Watched, context: JobContext) -> None:
            self._began(context)
            for number in range(job.reports):
                context.progress(number + 1, job.reports)
                await anyio.sleep(0.1)

        @queue.register(Tick)
        async def tick(job: Tick, context: JobContext) -> None:
            self._began(context)

        queue.schedule(Tick(), Schedule.every(timedelta(seconds=TICK)))
        return Worker(queue, worker_id=worker_id, lease=lease, concurrency=20)

    def _began(self, context: JobContext) -> None:
        self.seen.starts.append((time.monotonic(), context.job_id))

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Let it flow; at the end stop the producers, and wait until all that was pushed has ended."""
        async with anyio.create_task_group() as workers:
            for worker in self.workers:
                workers.start_soon(worker.run)
            await eventually(lambda: self.seen.has_ticked(0))
            async with anyio.create_task_group() as producers:
                self._produce(producers)
                await eventually(lambda: len(self.seen.starts) > 100, within=10)
                try:
                    yield
                finally:
                    self._stop.set()
            await self._drained()
            for worker in self.workers:
                worker.stop()
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        for queue in (self.queue, *self._queues):
            await queue.aclose()

    def _produce(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._push_async)
        tasks.start_soon(self._wait)
        tasks.start_soon(self._watch)
        for work in (self._push_sync, self._wait_sync):
            tasks.start_soon(partial(anyio.to_thread.run_sync, work))

    async def _push_async(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            with self._noting("async push"):
                step = Step(number)
                job = await self.queue.push(step, job_id=f"async-{number}", delay=step.delay)
                self._pushed(step, job.id)
                key = number % 3
                limited = await self.queue.push(Limited(key), limit_key=str(key), keep_result=0)
                self.seen.push(limited.id)
            await anyio.sleep(_EVERY)

    def _push_sync(self) -> None:
        with redisjobs.sync.JobQueue(self.where, self.queue_name) as queue:
            while not self._stop.wait(_EVERY):
                number = next(self._numbers)
                with self._noting("sync push"):
                    step = Step(number)
                    self._pushed(step, queue.push(step, delay=step.delay).id)

    def _pushed(self, step: Step, job_id: str) -> None:
        self.seen.push(job_id)
        if step.pushes:
            self.seen.push(f"{job_id}-after")

    async def _wait(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            with self._noting("async wait") as about:
                job = await self.queue.push(Step(number))
                self._pushed(Step(number), job.id)
                about.append(job.id)
                assert await job.result(timeout=_LEFT) == number
                self.seen.waited += 1

    def _wait_sync(self) -> None:
        with redisjobs.sync.JobQueue(self.where, self.queue_name) as queue:
            while not self._stop.is_set():
                number = next(self._numbers)
                with self._noting("sync wait") as about:
                    job = queue.push(Step(number))
                    self._pushed(Step(number), job.id)
                    about.append(job.id)
                    assert job.result(timeout=_LEFT) == number
                    self.seen.waited += 1

    async def _watch(self) -> None:
        while not self._stop.is_set():
            with self._noting("watch") as about:
                job = await self.queue.push(Watched())
                self.seen.push(job.id)
                about.append(job.id)
                with anyio.fail_after(_LEFT):
                    reports = [report async for report in job.watch()]
                assert reports, "no report"
                self.seen.watched += 1

    @contextmanager
    def _noting(self, what: str) -> Iterator[list[str]]:
        """Note an error; yield a list for the job that what follows is about."""
        about: list[str] = []
        try:
            yield about
        except Exception as error:
            self.seen.failed.append((f"{what}: {error!r}", "".join(about)))

    async def _drained(self) -> None:
        """Wait until all that was pushed has run and ended."""
        with anyio.move_on_after(_LEFT):
            while self.seen.lost or self.seen.left:
                await anyio.sleep(0.05)
                self.seen.left = await self._left()

    async def _left(self) -> int:
        counts = await self.queue.control.counts()
        return sum(counts.ready.values()) + counts.running + counts.delayed + counts.dead


class Look(Protocol[T_co]):
    """A look at a queue, which may repair what is wrong."""

    async def __call__(self, queue: JobQueue, /, *, repair: bool) -> T_co: ...


async def looks_while_busy(
    queue: JobQueue, look: Look[T], *, pauses: bool = False, max_concurrency: int | None = None
) -> list[T]:
    """Look at a queue while its jobs are pushed with keys, done, retried, delayed and cancelled all the while."""
    runs = 0

    @queue.job(retry=exponential_jitter(max_attempts=3, max_backoff=0.01), max_concurrency=max_concurrency)
    async def work(number: int) -> None:
        nonlocal runs
        runs += 1
        if number % 3 == 0:
            raise ValueError(number)
        if number % 7 == 0:
            raise Snooze(for_=0.001)

    async def keep_pushing() -> None:
        for number in itertools.count():
            options = PushOptions(unique=f"k-{number % 5}") if number % 2 else PushOptions(delay=0.005)
            handle = await work.options(**options).push(number)
            if number % 11 == 0:
                await queue.cancel(handle)
            if pauses and number % 29 == 0:
                await queue.control.pause(work.name)
                await queue.control.resume(work.name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_pushing)
        tasks.start_soon(Worker(queue, concurrency=10).run)
        await eventually(lambda: runs > 20, within=30)
        looks = [await look(queue, repair=turn % 2 == 1) for turn in range(LOOKS)]
        tasks.cancel_scope.cancel()
    assert runs > 50
    return looks
