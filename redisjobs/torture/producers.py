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
from redisjobs.codec import new_job_id
from redisjobs.driver import NewJob
from redisjobs.errors import DriverError, QueueFull
from redisjobs.job import Priority
from redisjobs.recording import Recording
from redisjobs.registry import PushedJob, PushOptions
from redisjobs.torture import jobs
from redisjobs.torture.store import MARK, new_mark

_DEADLINE = 2.0  # seconds that one push is tried for
_GIVE_UP = 30.0  # seconds after which a push is given up: within a minute, making it again is safe
_PAUSE = 0.2  # seconds until a refused push is tried again
_UNIQUE_KEYS = 5
_BATCH = 8
_TWINS = 0.4  # seconds between two of one id
_LOOK = 0.02  # seconds between looks at whether a job has ended
_PATIENCE = 15.0  # seconds that its end is waited for
_LONG = 40.0  # seconds that a job is delayed for which is to be there all the while

_Kind = Callable[["_Book", random.Random], None]


class Producers:
    """Some threads that push until told to stop. A context manager that waits for them.

    Args:
        urls: Where the queue is, in each database.
        name: The queue's.
        recording: What they write into.
        seed: Of what they push.
        rate: Jobs a second, of all together.

    Attributes:
        errors: What went wrong in them, that must not.
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
        kinds += [(self._again, db) for db in range(len(urls))]
        if len(urls) > 1:
            kinds.append((self._twins, 0))
        self._threads = [
            threading.Thread(
                target=self._guarded,
                args=(kind, _Book(recording, db), number),
                name=f"producer {number}",
                daemon=True,
            )
            for number, (kind, db) in enumerate(kinds)
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

    def _guarded(self, kind: _Kind, book: "_Book", number: int) -> None:
        try:
            kind(book, random.Random(f"{self._seed} {number}"))
        except Exception:
            self.errors.append(traceback.format_exc())

    def _queue(self, db: int) -> sync.JobQueue:
        return sync.JobQueue(self._urls[db], self._name, deadline=_DEADLINE)

    # Those that push a mix of everything

    def _one_by_one(self, book: "_Book", rng: random.Random) -> None:
        with self._queue(book.db) as queue:
            cancels = _Cancels(rng)
            while not self._over.wait(self._every):
                job_id = _push_one(book, queue, rng)
                if job_id and rng.random() < 0.05:
                    cancels.plan(job_id)
                for job_id in cancels.due():
                    book.cancel(queue, job_id)

    def _in_batches(self, book: "_Book", rng: random.Random) -> None:
        with self._queue(book.db) as queue:
            while not self._over.wait(self._every * _BATCH):
                jobs = [_a_job(queue, rng) for _ in range(_BATCH)]
                book.push(jobs, partial(queue.push_many, jobs))

    def _in_async(self, book: "_Book", rng: random.Random) -> None:
        async def push() -> None:
            async with queue.JobQueue(self._urls[book.db], self._name, deadline=_DEADLINE) as store:
                while not self._over.is_set():
                    await anyio.sleep(self._every)
                    job = _a_job(store, rng)
                    book.note_attempt([job])
                    again = False
                    while True:
                        try:
                            told = await store.push_many([job])
                        except DriverError as error:
                            if not book.may_try_again([job], error):
                                break
                            again = True
                            await anyio.sleep(_PAUSE)
                        else:
                            book.note_success([job], told, again=again)
                            break

        anyio.run(push)

    # Those that push one id more than once

    def _twins(self, book: "_Book", rng: random.Random) -> None:
        """Push each id into both databases at once; sometimes cancel one of the two."""
        other = _Book(book.recording, 1)
        with self._queue(0) as first, self._queue(1) as second:
            both = ((book, first), (other, second))
            while not self._over.wait(_TWINS):
                job_id, seconds = f"twin-{new_job_id()}", rng.uniform(0.1, 0.6)
                for page, queue in both:
                    job = queue.prepare(jobs.Work(seconds), job_id=job_id)
                    page.push([job], partial(queue.push_many, [job]))
                if rng.random() < 0.6:
                    time.sleep(rng.choice((0, 0.05, 0.1)))
                    page, queue = rng.choice(both)
                    page.cancel(queue, job_id)

    def _again(self, book: "_Book", rng: random.Random) -> None:
        """Push an id after its job's end, while a job has it, and after its cancel; an id ends where one fails."""
        with self._queue(book.db) as queue:
            while not self._over.is_set():
                life = _Lives(book, queue, rng, f"again-{new_job_id()}")
                for _ in range(rng.randint(1, 3)):
                    if not (life.push(jobs.Work(rng.uniform(0, 0.05))) and life.wait_for_end(self._over)):
                        break
                else:
                    sure = life.push(jobs.Work(0.001), delay=_LONG) and life.push_meanwhile()
                    if life.cancel() and sure:
                        life.push(jobs.Work(0.001))
                self._over.wait(_PAUSE)


class _Book:
    """What is written down of one database by one producer.

    Attributes:
        recording: Where.
        db: The database.
    """

    def __init__(self, recording: Recording, db: int) -> None:
        self.recording, self.db = recording, db

    def note(self, what: str, **facts: Any) -> None:
        """Write a line."""
        self.recording.write({"what": what, "at": time.time(), "db": self.db, **facts})

    def push(
        self, pushed: Sequence[NewJob], send: Callable[[], Sequence[PushedJob]], *, again: bool = False
    ) -> bool:
        """Push, again as long as that is safe; whether it was acknowledged. `again`: the same push has failed."""
        self.note_attempt(pushed)
        while True:
            try:
                told = send()
            except DriverError as error:
                if not self.may_try_again(pushed, error):
                    return False
                again = True
                time.sleep(_PAUSE)
            else:
                self.note_success(pushed, told, again=again)
                return True

    def cancel(self, queue: sync.JobQueue, job_id: str, mark: str = "") -> str:
        """Cancel a job; what was said to that, '' if nothing was."""
        self.note("cancel", job=job_id, mark=mark)
        try:
            reply = str(queue.cancel(job_id))
        except DriverError:
            reply = ""  # it may be, or not
        self.note("cancelled", job=job_id, mark=mark, reply=reply)
        return reply

    def note_attempt(self, pushed: Sequence[NewJob]) -> None:
        """Write down what is about to be pushed."""
        for job in pushed:
            self.note("push", job=job.job_id, name=str(job.fields[1]))

    def note_success(self, pushed: Sequence[NewJob], told: Sequence[PushedJob], *, again: bool) -> None:
        """Write down what was said to it; `again`: the same push had failed before, and may have been done."""
        for job, handle in zip(pushed, told, strict=True):
            # With a unique key it may be told of another job: then its own was not added.
            holder = "" if handle.id == job.job_id else handle.id
            added = handle.added or (None if again else False)
            self.note("pushed", job=job.job_id, holder=holder, added=added, delay=_seconds_of(job.due))

    def may_try_again(self, pushed: Sequence[NewJob], error: DriverError) -> bool:
        """Write down that a push failed; whether to try it again."""
        full = isinstance(error, QueueFull)
        self.note("refused", jobs=[job.job_id for job in pushed], full=full, error=str(error))
        made_at = int(pushed[0].job_id[-28:-16], 16) / 1000
        return time.time() - made_at < _GIVE_UP


class _Lives:
    """One id, pushed again and again."""

    def __init__(self, book: _Book, queue: sync.JobQueue, rng: random.Random, job_id: str) -> None:
        self._book, self._queue, self._rng = book, queue, rng
        self._job_id = job_id
        self._mark = ""

    def push(self, parameters: Any, *, expected: str = "new", **options: Any) -> bool:
        """Push it; whether that is known to have been done. `expected` says whether a job has the id."""
        mark = new_mark()
        if expected == "new":
            self._mark = mark
        line = {"job": self._job_id, MARK: mark}
        self._book.note("push", name=parameters.job_name, expected=expected, **line)
        try:
            handle = self._queue.push(parameters, job_id=self._job_id, headers={MARK: mark}, **options)
        except DriverError as error:
            full = isinstance(error, QueueFull)
            self._book.note("refused", jobs=[self._job_id], full=full, error=str(error))
            return False
        self._book.note("pushed", holder="", added=handle.added, delay=options.get("delay", 0.0), **line)
        return True

    def push_meanwhile(self) -> bool:
        """Push it while a job has it."""
        return self.push(jobs.Work(0.001), expected="there")

    def wait_for_end(self, over: threading.Event) -> bool:
        """Wait until the job has ended, but not for ever; whether it has."""
        until = time.monotonic() + _PATIENCE
        while not over.is_set() and time.monotonic() < until:
            try:
                if self._queue.get(self._job_id) is None:
                    return True
            except DriverError:
                pass
            time.sleep(_LOOK)
        return False

    def cancel(self) -> bool:
        """Cancel the job, which waits; whether it is known to be gone."""
        until = time.monotonic() + _PATIENCE
        while not (reply := self._book.cancel(self._queue, self._job_id, self._mark)):
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
        return reply in ("CANCELLED", "NOT_FOUND")


def _push_one(book: _Book, queue: sync.JobQueue, rng: random.Random) -> str:
    """Push a job, half the time under an id that the queue makes; its id, '' if it was not acknowledged."""
    if rng.random() < 0.5:
        job = _a_job(queue, rng)
        return job.job_id if book.push([job], partial(queue.push_many, [job])) else ""
    try:
        handle = queue.push(jobs.Work(_some_seconds(rng)))
    except DriverError as error:
        if not error.jobs:  # the queue is full: nothing was written
            book.note("refused", jobs=[], full=isinstance(error, QueueFull), error=str(error))
            return ""
        # Whether it is there is not known; the same push can be made again.
        pushed = book.push(error.jobs, partial(queue.push_many, error.jobs), again=True)
        return error.jobs[0].job_id if pushed else ""
    book.note("push", job=handle.id, name="Work")
    book.note("pushed", job=handle.id, holder="", added=handle.added)
    return handle.id


def _seconds_of(due: str) -> float:
    """For how long a prepared job is delayed, of `+5000`."""
    return float(due[1:]) / 1000 if due else 0.0


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
    elif chance < 0.93:
        kind = jobs.Pusher()
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
