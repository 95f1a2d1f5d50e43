"""A fault of an application that pushes in a transaction of its own, and stays in it."""

import threading
import time
import traceback
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio

from redisjobs.model.codec import new_job_id
from redisjobs.queue import JobQueue
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.producer import Producer
from redisjobs_proof.torture.nemesis.backends import PostgresFault, on_postgres
from redisjobs_proof.torture.nemesis.fault import System

if TYPE_CHECKING:
    from redisjobs_proof.torture.fleet.postgres_store import PostgresStore

_EVERY = 0.1  # seconds
_MARGIN = 3.0  # seconds that a push may take, on top of a lease


class HoldKeys(PostgresFault):
    """An application holds keys and ids in an open transaction, and rolls it back.

    Meanwhile handlers push follow-ups with these keys and ids, and an async producer pushes with others of
    them. Only what has such a key or id may wait: each worker has to go on with other jobs, and each push of
    another job to be answered.
    """

    name = "keys held"
    holds = 10.0
    alone = True  # a push beside it may fail only by this fault
    FOLLOWERS, PUSHED = 40, 4

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = on_postgres(system.some_store())
        self.db, self.session = self.store.db, self.store.session()
        system.stack.callback(self.session.close)
        token = new_job_id()
        self.left = [f"held {token} {number}" for number in range(self.FOLLOWERS)]
        pushed = [f"pushed {token} {number}" for number in range(self.PUSHED)]
        self._hold([*self.left, *pushed])
        self.over = threading.Event()
        self.side = _Side(self.store, system.producer(self.db), pushed, system.lease + _MARGIN, self.over)
        self.detail = f"{len(self.left)} follow-ups and {len(pushed)} pushes"

    def _hold(self, names: Sequence[str]) -> None:
        """Push jobs with these keys, and jobs with these ids, in a transaction that stays open."""
        queue = self.store.queue
        held = [queue.prepare(jobs.Work(0), unique=name, job_id=new_job_id()) for name in names]
        held += [queue.prepare(jobs.Work(0), job_id=name) for name in names]
        self.session.run("begin")
        queue.push_many(held, within=self.session.connection)

    def keep(self, system: System) -> None:  # noqa: D102
        # One by one, so that each worker gets some.
        if self.left:
            name = self.left.pop()
            self.jobs.append(system.push(jobs.Follower(name, by_key=len(self.left) % 2 == 0), self.store))

    def end(self, system: System) -> None:  # noqa: D102
        self.session.run("rollback")
        self.session.close()
        self.over.set()

        def is_over() -> bool:
            if self.side.thread.is_alive():
                return False
            system.notes += [{"what": "found", "at": time.time(), "text": text} for text in self.side.found]
            return True

        system.late.append(is_over)


class _Side:
    """A producer with an event loop: pushes that have to wait, and pushes that must not, beside each other.

    Attributes:
        found: What was wrong, in words.
    """

    def __init__(
        self, store: "PostgresStore", producer: Producer, keys: Sequence[str], most: float, over: threading.Event
    ) -> None:
        self.found: list[str] = []
        self._store, self._producer, self._keys = store, producer, keys
        self._most, self._over = most, over
        self.thread = threading.Thread(target=self._run, name="producer beside held keys", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            anyio.run(self._push)
        except Exception:
            self.found.append(traceback.format_exc())

    async def _push(self) -> None:
        async with (
            JobQueue(self._store.url, self._store.queue.name) as queue,
            anyio.create_task_group() as tasks,
        ):
            for key in self._keys:
                job = queue.prepare(jobs.Work(0.001), unique=key, job_id=new_job_id())
                tasks.start_soon(self._producer.push_async, [job], partial(queue.push_many, [job]))
            while not self._over.is_set():
                await anyio.sleep(_EVERY)
                await self._push_plain(queue)

    async def _push_plain(self, queue: JobQueue) -> None:
        job = queue.prepare(jobs.Work(0.001), job_id=new_job_id())
        began = time.monotonic()
        answered = await self._producer.push_async([job], partial(queue.push_many, [job]))
        took = time.monotonic() - began
        if took > self._most or not answered:
            self.found.append(
                f"{job.job_id} was {'' if answered else 'not '}pushed within {took:.1f} s, beside pushes that "
                "waited for a key which a transaction held"
            )
