"""What an operator stops for a while: a queue, a job name, single jobs."""

import time
from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs.torture import jobs
from redisjobs.torture.nemesis.fault import Fault, Field
from redisjobs.torture.store import Store
from redisjobs.transitions import Reply


class PauseQueue(Fault):
    """A queue is paused: none of the jobs that are pushed meanwhile starts before it is resumed."""

    name = "queue paused"
    holds = 1.5
    job_name: str | None = None

    def begin(self, field: Field) -> None:  # noqa: D102
        self.store = field.some_store()
        self.db = self.store.db
        self.store.queue.pause(self.job_name)
        self.paused_at = time.time()
        for _ in range(3):
            field.push(jobs.Work(0.001), self.store)

    def end(self, field: Field) -> None:  # noqa: D102
        field.note("stopped", db=self.db, name=self.job_name or "", since=self.paused_at, until=time.time())
        self.store.queue.resume(self.job_name)


class PauseName(PauseQueue):
    """The jobs of a name are paused, and all others run."""

    name = "name paused"
    job_name = jobs.Work.job_name


class HoldJobs(Fault):
    """Some delayed jobs are held until after they are due, and some of them are cancelled then."""

    name = "jobs held"
    holds = 1.5

    def begin(self, field: Field) -> None:  # noqa: D102
        self.store = field.some_store()
        self.db = self.store.db
        for _ in range(6):
            job = field.push(jobs.Work(0.001), self.store, delay=0.5)
            if self.store.queue.hold(job) is Reply.HELD:
                self.jobs.append(job)
        self.held_at = time.time()

    @property
    def happened(self) -> bool:  # noqa: D102
        return bool(self.jobs)

    def end(self, field: Field) -> None:  # noqa: D102
        for job in self.jobs:
            field.note("stopped", db=self.db, job=job, since=self.held_at, until=time.time())
            self.store.queue.unhold(job)


def resume(store: Store) -> None:
    """Let everything start that may have been stopped."""
    with suppress(DriverError):
        store.queue.resume()
        for name in store.queue.pauses().names:
            store.queue.resume(name)
        for state in ("ready", "delayed"):
            store.queue.unhold_all(state)
