"""Faults that keep jobs from starting for a while: an operator stops them, or they wait for their rate."""

import time
from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs.model.transitions import Reply
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.store import Store
from redisjobs_proof.torture.nemesis.fault import Fault, System

_LINES = 60  # more than the 50 that a script looks at in one call


class PauseQueue(Fault):
    """A queue is paused: a job that is pushed meanwhile must not start before the queue is resumed."""

    name = "queue paused"
    holds = 1.5
    job_name: str | None = None

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = system.some_store()
        self.db = self.store.db
        self.store.queue.control.pause(self.job_name)
        self.paused_at = time.time()
        for _ in range(3):
            system.push(jobs.Work(0.001), self.store)

    def end(self, system: System) -> None:  # noqa: D102
        system.note("stopped", db=self.db, name=self.job_name or "", since=self.paused_at, until=time.time())
        self.store.queue.control.resume(self.job_name)


class PauseName(PauseQueue):
    """A job name is paused, and all other jobs run."""

    name = "name paused"
    job_name = jobs.Work.job_name


class HoldJobs(Fault):
    """Some delayed jobs are held until after they are due."""

    name = "jobs held"
    holds = 1.5

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = system.some_store()
        self.db = self.store.db
        for _ in range(6):
            job = system.push(jobs.Work(0.001), self.store, delay=0.5)
            if self.store.queue.control.hold(job) is Reply.HELD:
                self.jobs.append(job)
        self.held_at = time.time()

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.jobs)

    def end(self, system: System) -> None:  # noqa: D102
        for job in self.jobs:
            system.note("stopped", db=self.db, job=job, since=self.held_at, until=time.time())
            self.store.queue.control.unhold(job)


class ManyLines(Fault):
    """Many lines wait for their rate until all faults are over, and must not block the lines of other limits.

    The jobs that still wait then are cancelled. The check of waits finds a job of another limit that got stuck.
    """

    name = "many lines"

    def begin(self, system: System) -> None:  # noqa: D102
        self.store = system.some_store()
        self.db = self.store.db
        self.detail = f"{_LINES} lines"
        for key in range(_LINES):
            for _ in range(2):  # the first of them starts at once
                self.jobs.append(system.push(jobs.Seldom(key), self.store))
        self._left = list(self.jobs)
        system.late.append(lambda: self._cancel(system))

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.jobs)

    def keep(self, system: System) -> None:  # noqa: D102
        self.store.tidy()

    def _cancel(self, system: System) -> bool:
        """Cancel the jobs that still wait, once all faults are over; return whether that is done."""
        while system.over and self._left:
            system.note("cancel", job=self._left[-1], db=self.db)
            reply = self.store.queue.cancel(self._left[-1])
            system.note("cancelled", job=self._left.pop(), db=self.db, reply=reply)
        return system.over


def resume(store: Store) -> None:
    """Resume the queue, all names and all workers, and unhold all jobs."""
    with suppress(DriverError):
        store.queue.control.resume()
        for name in store.queue.control.pauses().names:
            store.queue.control.resume(name)
        for worker in store.queue.control.workers():
            if worker.quiet:
                store.queue.control.resume_worker(worker)
        for state in ("ready", "delayed"):
            store.queue.control.unhold_all(state)
