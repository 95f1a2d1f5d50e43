"""Producers: threads that push and cancel, and write down what they were told."""

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio

from redisjobs import queue, sync
from redisjobs.cli.journal import Journal
from redisjobs.cli.torture import jobs
from redisjobs.codec import new_job_id
from redisjobs.driver import NewJob
from redisjobs.errors import DriverError, QueueFull
from redisjobs.job import Priority
from redisjobs.registry import PushedJob, PushOptions

_DEADLINE = 2.0  # seconds that one push is tried for
_GIVE_UP = 30.0  # seconds after which a push is given up: within a minute, pushing an id again is safe
_PAUSE = 0.2  # seconds until a refused push is tried again
_UNIQUE_KEYS = 5
_BATCH = 8


class Producers:
    """Some threads that push until told to stop. A context manager that waits for them.

    Args:
        url: Where the queue is.
        name: The queue's.
        journal: What they write into.
        seed: Of what they push.
        rate: Jobs a second, of all together.

    Attributes:
        acknowledged: How many pushes were.
        full: How often one was told that the queue is full.
    """

    def __init__(self, url: str, name: str, journal: Journal, *, seed: int, rate: float) -> None:
        self.acknowledged = self.full = 0
        self.errors: list[str] = []
        self._url, self._name, self._journal, self._seed = url, name, journal, seed
        kinds: Sequence[Callable[[random.Random], None]] = (self._one_by_one, self._in_batches, self._in_async)
        self._every = len(kinds) / rate
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._guarded, args=(kind, number), name=f"producer {number}", daemon=True)
            for number, kind in enumerate(kinds)
        ]

    def __enter__(self) -> "Producers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Push nothing new; what is under way is brought to its end."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, kind: Callable[[random.Random], None], number: int) -> None:
        try:
            kind(random.Random(f"{self._seed} {number}"))
        except Exception:
            self.errors.append(traceback.format_exc())

    def _sync_queue(self) -> sync.JobQueue:
        return sync.JobQueue(self._url, self._name, deadline=_DEADLINE)

    # The three kinds

    def _one_by_one(self, rng: random.Random) -> None:
        with self._sync_queue() as queue:
            cancels = _Cancels(rng)
            while not self._over.wait(self._every):
                job_id = self._push_one(queue, rng)
                if job_id and rng.random() < 0.05:
                    cancels.plan(job_id)
                for job_id in cancels.due():
                    self._cancel(queue, job_id)

    def _in_batches(self, rng: random.Random) -> None:
        with self._sync_queue() as queue:
            while not self._over.wait(self._every * _BATCH):
                jobs = [_a_job(queue, rng) for _ in range(_BATCH)]
                self._push(jobs, partial(queue.push_many, jobs))

    def _in_async(self, rng: random.Random) -> None:
        async def push() -> None:
            async with queue.JobQueue(self._url, self._name, deadline=_DEADLINE) as store:
                while not self._over.is_set():
                    await anyio.sleep(self._every)
                    job = _a_job(store, rng)
                    self._note_attempt([job])
                    while True:
                        try:
                            (told,) = await store.push_many([job])
                        except DriverError as error:
                            if not self._may_try_again([job], error):
                                break
                            await anyio.sleep(_PAUSE)
                        else:
                            self._note_success([job], [told])
                            break

        anyio.run(push)

    def _push_one(self, queue: sync.JobQueue, rng: random.Random) -> str:
        """Push a job, half the time under an id that the queue makes; its id, '' if it was not acknowledged."""
        job = _a_job(queue, rng)
        if rng.random() < 0.5:
            return job.job_id if self._push([job], partial(queue.push_many, [job])) else ""
        try:
            job_id = queue.push(jobs.Work(_some_seconds(rng))).id
        except DriverError as error:
            if not error.jobs:  # the queue is full: nothing was written
                self._may_try_again([job], error)
                return ""
            # Whether it is there is not known; the same push can be made again.
            return error.jobs[0].job_id if self._push(error.jobs, partial(queue.push_many, error.jobs)) else ""
        self._note("push", job=job_id, name="Work")
        self._note("pushed", job=job_id, holder="")
        with self._lock:
            self.acknowledged += 1
        return job_id

    def _push(self, pushed: Sequence[NewJob], send: Callable[[], Sequence[PushedJob]]) -> bool:
        """Push, again as long as that is safe; whether it was acknowledged."""
        self._note_attempt(pushed)
        while True:
            try:
                told = send()
            except DriverError as error:
                if not self._may_try_again(pushed, error):
                    return False
                time.sleep(_PAUSE)
            else:
                self._note_success(pushed, told)
                return True

    def _cancel(self, queue: sync.JobQueue, job_id: str) -> None:
        self._note("cancel", job=job_id)
        try:
            word = str(queue.cancel(job_id))
        except DriverError:
            word = ""  # it may be, or not
        self._note("cancelled", job=job_id, word=word)

    # What they write down

    def _note(self, what: str, **facts: Any) -> None:
        self._journal.write({"what": what, "at": time.time(), **facts})

    def _note_attempt(self, pushed: Sequence[NewJob]) -> None:
        for job in pushed:
            self._note("push", job=job.job_id, name=str(job.fields[1]))

    def _note_success(self, pushed: Sequence[NewJob], told: Sequence[PushedJob]) -> None:
        for job, handle in zip(pushed, told, strict=True):
            # With a unique key it may be told of another job: then its own was not added.
            self._note("pushed", job=job.job_id, holder="" if handle.id == job.job_id else handle.id)
        with self._lock:
            self.acknowledged += len(pushed)

    def _may_try_again(self, pushed: Sequence[NewJob], error: DriverError) -> bool:
        full = isinstance(error, QueueFull)
        with self._lock:
            self.full += full
        self._note("refused", jobs=[job.job_id for job in pushed], full=full, error=str(error))
        made_at = int(pushed[0].job_id[-28:-16], 16) / 1000
        return time.time() - made_at < _GIVE_UP


class _Cancels:
    """Jobs to be cancelled: at once, or a little later, when they may run or be done."""

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


def _a_job(queue: sync.JobQueue | queue.JobQueue, rng: random.Random) -> NewJob:
    """One of the mix: mostly short work, and some of all else."""
    options: PushOptions = {"job_id": f"own-{new_job_id()}"} if rng.random() < 0.3 else {"job_id": new_job_id()}
    options["priority"] = rng.choices(list(Priority), (1, 8, 1))[0]
    if rng.random() < 0.1:
        options["delay"] = rng.uniform(0.05, 3)
    if rng.random() < 0.02:
        options["unique"] = f"key {rng.randrange(_UNIQUE_KEYS)}"
    chance = rng.random()
    if chance < 0.75:
        kind: Any = jobs.Work(_some_seconds(rng))
    elif chance < 0.9:
        kind = jobs.ThreadWork(_some_seconds(rng))
    elif chance < 0.98:
        kind = jobs.Flaky(rng.randint(2, jobs.ATTEMPTS))
    elif chance < 0.99:
        kind = jobs.Flaky(jobs.ATTEMPTS + 1)
    else:
        kind = jobs.Hopeless()
    return queue.prepare(kind, **options)


def _some_seconds(rng: random.Random) -> float:
    """Mostly a few ms; now and then longer than a lease."""
    chance = rng.random()
    if chance < 0.8:
        return rng.uniform(0.001, 0.02)
    return rng.uniform(0.05, 0.2) if chance < 0.97 else rng.uniform(1, 3)
