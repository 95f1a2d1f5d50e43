"""The producers of a torture: threads that push and cancel, and record the answers."""

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio

from redisjobs import queue, sync
from redisjobs.errors import DriverError, QueueFull
from redisjobs.events.recording import Recording
from redisjobs.model.codec import new_job_id
from redisjobs.model.job import PushedJob
from redisjobs_proof.torture.fleet import flows, jobs
from redisjobs_proof.torture.fleet.mix import a_job, some_seconds
from redisjobs_proof.torture.fleet.producer import PAUSE, Producer
from redisjobs_proof.torture.fleet.reused import ReusedId
from redisjobs_proof.torture.fleet.signaller import Signaller
from redisjobs_proof.torture.fleet.waiters import wait, wait_in_async

_DEADLINE = 2.0  # seconds for which the queue tries one push
_BATCH = 8
_FAMILY = 2.0  # seconds between two families some of whose children are cancelled
_TWINS = 0.4  # seconds between two pairs of jobs with one id
_LONG = 40.0  # seconds by which a job is delayed that must still exist at the next push

_Kind = Callable[[Producer, random.Random], None]


class Producers:
    """Threads that push until they are stopped. A context manager that waits for them.

    Args:
        urls: The URL of the queue in each database.
        rate: Jobs a second, of all threads together.

    Attributes:
        errors: Tracebacks of threads that failed.
    """

    def __init__(self, urls: Sequence[str], name: str, recording: Recording, *, seed: int, rate: float) -> None:
        self.errors: list[str] = []
        self._urls, self._name, self._seed = urls, name, seed
        self._over = threading.Event()
        kinds: list[tuple[_Kind, int]] = [
            *((kind, 0) for kind in (self._one_by_one, self._in_batches, self._in_async)),
            *((self._one_by_one, db) for db in range(1, len(urls))),
        ]
        self._every = len(kinds) / rate
        kinds += [(kind, db) for db in range(len(urls)) for kind in (self._again, self._versions)]
        kinds += [(self._waits, len(urls) - 1), (self._waits_in_async, 0)]
        kinds += [*((self._signals, db) for db in range(len(urls))), (self._cancelled_children, 0)]
        if len(urls) > 1:
            kinds.append((self._twins, 0))
        self._threads = [
            threading.Thread(
                target=self._guarded,
                args=(kind, Producer(recording, db), number),
                name=f"producer {number}",
                daemon=True,
            )
            for number, (kind, db) in enumerate(kinds)
        ]

    def __enter__(self) -> "Producers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        self.stop()
        if kind is None:  # else no worker may be left to end what they wait for; they end with the process
            for thread in self._threads:
                thread.join()

    def stop(self) -> None:
        """Push nothing new; the threads end once what they have begun is over."""
        self._over.set()

    @property
    def ended(self) -> bool:
        """Whether all threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _guarded(self, kind: _Kind, producer: Producer, number: int) -> None:
        try:
            kind(producer, random.Random(f"{self._seed} {number}"))
        except Exception:
            self.errors.append(traceback.format_exc())

    def _queue(self, db: int) -> sync.JobQueue:
        return sync.JobQueue(self._urls[db], self._name, deadline=_DEADLINE)

    # A mix of everything

    def _one_by_one(self, producer: Producer, rng: random.Random) -> None:
        with self._queue(producer.db) as queue:
            cancels = _Cancels(rng)
            while not self._over.wait(self._every):
                job_id = self._push_one(producer, queue, rng)
                if job_id and rng.random() < 0.05:
                    cancels.plan(job_id)
                for job_id in cancels.due():
                    producer.cancel(queue, job_id)

    def _push_one(self, producer: Producer, queue: sync.JobQueue, rng: random.Random) -> str:
        """Push a job, in half of the cases without an id; return its id, '' if not acknowledged."""
        if rng.random() < 0.5:
            job = a_job(queue, rng)
            return job.job_id if producer.push([job], partial(queue.push_many, [job])) else ""
        try:
            handle = queue.push(jobs.Work(some_seconds(rng)))
        except DriverError as error:
            if not error.jobs:  # the queue is full: nothing was written
                producer.note("refused", jobs=[], full=isinstance(error, QueueFull), error=str(error))
                return ""
            # The job may be there, or not. We can repeat the same push.
            pushed = producer.push(error.jobs, partial(queue.push_many, error.jobs), again=True)
            return error.jobs[0].job_id if pushed else ""
        producer.note("push", job=handle.id, name="Work")
        producer.note("pushed", job=handle.id, holder="", added=handle.added)
        return handle.id

    def _in_batches(self, producer: Producer, rng: random.Random) -> None:
        with self._queue(producer.db) as queue:
            while not self._over.wait(self._every * _BATCH):
                batch = [a_job(queue, rng) for _ in range(_BATCH)]
                producer.push(batch, partial(queue.push_many, batch))

    def _in_async(self, producer: Producer, rng: random.Random) -> None:
        async def push(store: queue.JobQueue) -> None:
            while not self._over.is_set():
                await anyio.sleep(self._every)
                job = a_job(store, rng)
                await producer.push_async([job], partial(store.push_many, [job]))

        anyio.run(self._in_loop, producer.db, push)

    async def _in_loop(self, db: int, act: Callable[[queue.JobQueue], Awaitable[None]]) -> None:
        async with queue.JobQueue(self._urls[db], self._name, deadline=_DEADLINE) as store:
            await act(store)

    # Waits for results

    def _waits(self, producer: Producer, rng: random.Random) -> None:
        with self._queue(producer.db) as queue:
            wait(producer, queue, rng, self._over)

    def _waits_in_async(self, producer: Producer, rng: random.Random) -> None:
        anyio.run(self._in_loop, producer.db, lambda store: wait_in_async(producer, store, rng, self._over))

    # Flows

    def _signals(self, producer: Producer, rng: random.Random) -> None:
        with self._queue(producer.db) as queue:
            Signaller(producer, queue, rng).go_on_until(self._over)

    def _cancelled_children(self, producer: Producer, rng: random.Random) -> None:
        """Push families, and cancel some of their children a little later; some of these are suspended."""
        with self._queue(producer.db) as queue:
            while not self._over.wait(_FAMILY):
                kinds = ["work", "sleep", "sleep", "family"]
                family = queue.prepare(flows.Family([kinds], named=True), job_id=new_job_id())
                if producer.push([family], partial(queue.push_many, [family])):
                    time.sleep(rng.choice((0, 0.05, 0.2)))
                    for number in rng.sample(range(len(kinds)), 2):
                        producer.cancel(queue, flows.child_id(family.job_id, number))

    # One id more than once

    def _twins(self, producer: Producer, rng: random.Random) -> None:
        """Push each id into both databases at once; sometimes cancel one of the two."""
        other = Producer(producer.recording, 1)
        with self._queue(0) as first, self._queue(1) as second:
            both = ((producer, first), (other, second))
            while not self._over.wait(_TWINS):
                job_id, seconds = f"twin-{new_job_id()}", rng.uniform(0.1, 0.6)
                for page, queue in both:
                    job = queue.prepare(jobs.Work(seconds), job_id=job_id)
                    page.push([job], partial(queue.push_many, [job]))
                if rng.random() < 0.6:
                    time.sleep(rng.choice((0, 0.05, 0.1)))
                    page, queue = rng.choice(both)
                    page.cancel(queue, job_id)

    def _again(self, producer: Producer, rng: random.Random) -> None:
        """Push an id after its job's end, while a job has it, and after a cancel; use a new id if a call fails."""
        with self._queue(producer.db) as queue:
            while not self._over.is_set():
                reused = ReusedId(producer, queue, f"again-{new_job_id()}")
                for _ in range(rng.randint(1, 3)):
                    work = jobs.Work(rng.uniform(0, 0.05))
                    if not (reused.push(work, keep_result=jobs.KEPT) and reused.wait_for_end(self._over)):
                        break
                    reused.ask()
                else:
                    sure = reused.push(jobs.Work(0.001), delay=_LONG) and reused.push_meanwhile()
                    if reused.cancel() and sure:
                        reused.push(jobs.Work(0.001))
                self._over.wait(PAUSE)

    def _versions(self, producer: Producer, rng: random.Random) -> None:
        """Push versions of a thing one after the other, with one key; each replaces a version that waits."""
        with self._queue(producer.db) as queue:
            while not self._over.is_set():
                key = f"latest {new_job_id()}"
                for version in range(1, rng.randint(3, 7)):
                    _push_version(producer, queue, jobs.Latest(key, version))
                    self._over.wait(rng.choice((0, 0.02, 0.2)))
                self._over.wait(PAUSE)


def _push_version(producer: Producer, queue: sync.JobQueue, latest: jobs.Latest) -> None:
    """Push a version; if acknowledged, record the job that has the key, and whether it is this version."""
    job = queue.prepare(latest, unique=latest.key, unique_until="start", on_conflict="replace")
    told: list[PushedJob] = []

    def send() -> Sequence[PushedJob]:
        told[:] = queue.push_many([job])
        return told

    if producer.push([job], send):
        taken = told[0].added or told[0].replaced
        producer.note("version", key=latest.key, version=latest.version, holder=told[0].id, taken=taken)


class _Cancels:
    """The jobs to cancel: at once, or a little later, when they may be running or done."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._planned: deque[tuple[float, str]] = deque()

    def plan(self, job_id: str) -> None:
        self._planned.append((time.monotonic() + self._rng.choice((0, 0.05, 0.5)), job_id))

    def due(self) -> list[str]:
        now = time.monotonic()
        due = [job_id for at, job_id in self._planned if at <= now]
        self._planned = deque(item for item in self._planned if item[0] > now)
        return due
